"""Ctrl-C between steps, not in the middle of one."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def whole_step() -> Iterator[None]:
    """Put off SIGINT until the block is done: cells and our record of them stay in step.

    Python runs handlers in the main thread only; elsewhere, and where the handler is not Python's,
    nothing is done.
    """
    main = threading.current_thread() is threading.main_thread()
    handler = signal.getsignal(signal.SIGINT) if main else None
    if not callable(handler):
        yield
        return
    arrived = 0

    def note(number: int, frame: FrameType | None) -> None:
        nonlocal arrived
        arrived += 1

    signal.signal(signal.SIGINT, note)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
        for _ in range(arrived):
            signal.raise_signal(signal.SIGINT)
