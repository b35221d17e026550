"""Time spent inside native calls, so that what is left is Python's."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import ModuleType
from typing import Any


class NativeClock:
    """Sums the time of every call through the bindings from now on.

    Parameters
    ----------
    modules
        Modules whose ctypes functions are replaced by timed ones, for the rest of the process.
    """

    def __init__(self, *modules: ModuleType) -> None:
        self._seconds = 0.0
        for module in modules:
            for name, value in vars(module).copy().items():
                if _is_native(value):
                    setattr(module, name, self._timed(value))

    def take(self) -> float:
        """Return the seconds since the last call."""
        seconds, self._seconds = self._seconds, 0.0
        return seconds

    def _timed(self, function: Callable[..., Any]) -> Callable[..., Any]:
        now = time.perf_counter

        def call(*args: Any) -> Any:
            started = now()
            try:
                return function(*args)
            finally:
                self._seconds += now() - started

        return call


def _is_native(value: Any) -> bool:
    """Whether it is a function of a shared library; ctypes has no public name for their class."""
    return hasattr(value, "restype") and hasattr(value, "argtypes") and not isinstance(value, type)
