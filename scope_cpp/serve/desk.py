"""Where requests are parsed, checked and tokenized: beside the loop, long ones in a place apart.

Such work takes seconds for a text of megabytes. It then holds up neither the loop nor the engine's
thread, nor the work on requests of the usual size.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

T = TypeVar("T")

LONG = 1 << 16  # bytes of a body
_SHORT_THREADS = 4


class Desk:
    """Two pools of threads: one for short requests, one thread for long ones."""

    def __init__(self) -> None:
        self._short = ThreadPoolExecutor(_SHORT_THREADS, "scope-request")
        self._long = ThreadPoolExecutor(1, "scope-long-request")
        self._changed = threading.Condition()
        self._n_busy = 0

    async def run(self, n_bytes: int, work: Callable[..., T], *args: Any) -> T:
        """Return what `work` returns for a request of `n_bytes`.

        If this is cancelled, work that waits is not begun, and work that runs goes on to its end.
        """
        pool = self._long if n_bytes > LONG else self._short
        job = partial(self._counted, work, *args)
        return await asyncio.get_running_loop().run_in_executor(pool, job)

    def _counted(self, work: Callable[..., T], *args: Any) -> T:
        self._count(1)
        try:
            return work(*args)
        finally:
            self._count(-1)

    def _count(self, n: int) -> None:
        with self._changed:
            self._n_busy += n
            self._changed.notify_all()

    def close(self) -> None:
        """Begin nothing any more; what runs goes on."""
        for pool in (self._short, self._long):
            pool.shutdown(wait=False, cancel_futures=True)

    @property
    def busy(self) -> bool:
        """Whether something runs."""
        return self._n_busy > 0

    def settle(self) -> None:
        """Wait until nothing runs."""
        with self._changed:
            self._changed.wait_for(lambda: not self.busy)
