"""A file of lines that survives its process: killed, out of disk, without power."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from scope_cpp.errors import ScopeError
from scope_cpp.files import behind_links, cannot_begin, cannot_write, lock, open_own, sync_folder


class LineFile:
    """Lines that are appended to a file, each in one write that is on the disk afterwards.

    The file is made if need be and held by this process until `close`. Nothing is changed before
    `cut` or `append`.

    Parameters
    ----------
    path : Path
    named : bool
        Whether the user named it: a link is followed then, and refused otherwise.

    Raises
    ------
    ScopeError
        If it can't be written, or another process holds it.
    """

    def __init__(self, path: Path, *, named: bool = False) -> None:
        self.path = path
        file = behind_links(path) if named else path
        try:
            self._descriptor = open_own(file, os.O_RDWR | os.O_CREAT | os.O_APPEND)
        except OSError as err:
            cannot_begin(path, err)
        if not lock(self._descriptor):
            os.close(self._descriptor)
            raise ScopeError(f"{path}: another process writes to it: let it finish")
        sync_folder(path.parent)

    def __enter__(self) -> LineFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def empty(self) -> bool:
        """Whether there is nothing in it, not even half a line."""
        return os.fstat(self._descriptor).st_size == 0

    def read(self) -> Iterator[bytes]:
        """Yield the whole lines, without their ends."""
        with open(self._descriptor, "rb", closefd=False) as file:
            file.seek(0)
            for line in file:
                if line.endswith(b"\n"):
                    yield line[:-1]

    def cut(self) -> int:
        """Cut off a last line that was not written to its end; return its bytes."""
        size = os.fstat(self._descriptor).st_size
        whole = size
        with open(self._descriptor, "rb", closefd=False) as file:
            while whole:
                start = max(0, whole - 2**16)
                file.seek(start)
                newline = file.read(whole - start).rfind(b"\n")
                whole = start + newline + 1
                if newline >= 0:
                    break
        if whole < size:
            self._truncate(whole)
        return size - whole

    def append(self, line: bytes) -> None:
        """Add a line, which has its end; what can't be written whole is taken back.

        Raises
        ------
        ScopeError
            If there is no room, or another reason why it can't be written.
        """
        start = os.fstat(self._descriptor).st_size
        try:
            left = line
            while left:
                left = left[os.write(self._descriptor, left) :]
            os.fsync(self._descriptor)
        except OSError as err:
            with contextlib.suppress(ScopeError):
                self._truncate(start)
            cannot_write(self.path, err)

    def clear(self) -> None:
        """Take all lines out."""
        self._truncate(0)

    def remove(self) -> None:
        """Delete the file; close it then."""
        with contextlib.suppress(FileNotFoundError):
            self.path.unlink()

    def close(self) -> None:
        """Let go of the file."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _truncate(self, size: int) -> None:
        try:
            os.ftruncate(self._descriptor, size)
        except OSError as err:
            cannot_write(self.path, err)
