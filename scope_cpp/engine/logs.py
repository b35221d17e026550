"""llama.cpp's log: kept in memory, silent unless asked for.

llama.cpp reports most failures only in its log. The last lines are kept so that a failed call can
be explained by its true cause.
"""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
import threading
from collections import deque
from collections.abc import Iterator
from typing import Any

from scope_cpp.native.library import llama_cpp
from scope_cpp.printable import harmless

# enum ggml_log_level
_DEBUG, _WARN, _ERROR, _CONT = 1, 3, 4, 5

_N_LINES = 200


class LogRing:
    """The last lines of the log, each with its level; none of level DEBUG, which would fill it.

    llama.cpp logs pieces of lines: a line ends with its newline, and a piece of level CONT takes
    the level of the piece before it. Other threads than ours may log.
    """

    def __init__(self, n_lines: int = _N_LINES) -> None:
        self._lines: deque[tuple[int, str]] = deque(maxlen=n_lines)
        self._level = 0
        self._partial = ""
        self._lock = threading.Lock()

    def write(self, level: int, text: str) -> None:
        """Add one piece of log text."""
        with self._lock:
            if level != _CONT:
                self._flush()
                self._level = level
            *complete, self._partial = (self._partial + text).split("\n")
            for line in complete:
                self._add(line)

    def lines(self, *levels: int) -> list[str]:
        """Return the lines of the given levels, oldest first; of all levels when none is given."""
        with self._lock:
            kept = list(self._lines)
            if self._partial.strip() and self._level != _DEBUG:
                kept.append((self._level, self._partial))
        return [line for level, line in kept if not levels or level in levels]

    def clear(self) -> None:
        """Forget all lines."""
        with self._lock:
            self._lines.clear()
            self._partial = ""

    def _flush(self) -> None:
        self._add(self._partial)
        self._partial = ""

    def _add(self, line: str) -> None:
        if line.strip() and self._level != _DEBUG:
            self._lines.append((self._level, line))


_ring = LogRing()
_verbose = False


def _receive(level: int, text: bytes, _user_data: Any) -> None:
    line = text.decode("utf-8", errors="replace")
    _ring.write(level, line)
    if _verbose:
        print(harmless(line), end="", file=sys.stderr, flush=True)


# ctypes callbacks must outlive their last call; llama.cpp logs until the process ends
_callback = llama_cpp.llama_log_callback(_receive)


def capture(*, verbose: bool = False) -> None:
    """Send llama.cpp's log to the ring, and with `verbose` to stderr too."""
    global _verbose
    _verbose = verbose
    llama_cpp.llama_log_set(_callback, None)


def errors() -> list[str]:
    """Return the last error lines, oldest first."""
    return _ring.lines(_ERROR)


def warnings() -> list[str]:
    """Return the last warning lines, oldest first."""
    return _ring.lines(_WARN)


def lines() -> list[str]:
    """Return the last lines of all levels but DEBUG, oldest first."""
    return _ring.lines()


def clear() -> None:
    """Forget what was logged, so that `errors` tells of the next call only.

    The log is taken again too: the process has one, and importing the rest of the bindings takes
    it away.
    """
    llama_cpp.llama_log_set(_callback, None)
    _ring.clear()


@contextlib.contextmanager
def native_stderr() -> Iterator[list[str]]:
    """Collect what native code prints on file descriptor 2, which bypasses the log.

    The list is filled when the block ends. With file descriptor 2 closed it stays empty.
    """
    lines: list[str] = []
    try:
        saved = os.dup(2)
    except OSError:
        yield lines
        return
    with tempfile.TemporaryFile() as file:
        sys.stderr.flush()
        os.dup2(file.fileno(), 2)
        try:
            yield lines
        finally:
            os.dup2(saved, 2)
            os.close(saved)
            file.seek(0)
            lines += file.read().decode("utf-8", errors="replace").splitlines()


capture()
