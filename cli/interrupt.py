"""Ctrl-C while native code runs that calls back into Python."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator


@contextlib.contextmanager
def exit_at_once(code: int) -> Iterator[None]:
    """Let Ctrl-C end the process with `code` while nothing is written yet.

    llama.cpp logs through a Python callback while it loads a model and makes a context. An
    exception raised there is lost: the user would press Ctrl-C and nothing would happen.
    """
    in_main = threading.current_thread() is threading.main_thread()
    if not in_main or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    signal.signal(signal.SIGINT, lambda *_: os._exit(code))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
