"""Ctrl-C while native code runs that calls back into Python, and while an answer is written."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any

INTERRUPTED = 130  # the exit code after Ctrl-C


@contextlib.contextmanager
def exit_at_once() -> Iterator[None]:
    """Let Ctrl-C end the process without a word while nothing is written yet.

    llama.cpp logs through a Python callback while it loads a model and makes a context. An
    exception raised there is lost: the user would press Ctrl-C and nothing would happen.
    """
    in_main = threading.current_thread() is threading.main_thread()
    if not in_main or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    signal.signal(signal.SIGINT, lambda *_: os._exit(INTERRUPTED))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


class Interrupts:
    """Ctrl-C while an answer is written: counted, and raised only where that does no harm.

    A context manager. Outside of the main thread, where there are no signals, it does nothing.

    Attributes
    ----------
    count : int
        How often Ctrl-C was pressed so far.
    """

    def __init__(self) -> None:
        self.count = 0
        self._raises = False
        self._before: Any = None

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGINT, self._arrived)
        return self

    def __exit__(self, *_: object) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)

    @contextlib.contextmanager
    def raised(self) -> Iterator[None]:
        """Let Ctrl-C raise `KeyboardInterrupt` in this block, once."""
        if self.count:
            raise KeyboardInterrupt
        self._raises = True
        try:
            yield
        finally:
            self._raises = False

    def _arrived(self, number: int, frame: FrameType | None) -> None:
        self.count += 1
        if self._raises:
            self._raises = False
            raise KeyboardInterrupt
