"""The file of a saved conversation: a JSON header and arrays, every byte under a digest.

=======  ====  =====================================================================
offset   size
=======  ====  =====================================================================
0        8     `MAGIC`
8        4     version of the format
12       4     length n of the header in bytes
16       32    BLAKE2b-256 of the 16 bytes before and of the header
48       n     the header: JSON; ``arrays`` lists name, type, shape and BLAKE2b-256
48 + n         the arrays in the order of that list, nothing between or behind them
=======  ====  =====================================================================

Numbers are little-endian, arrays in C order. Digests tell damage, not forgery: whoever writes a
file can compute them, so what the header and the arrays *say* is checked by whoever uses them.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import stat
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, NoReturn

import numpy as np
from numpy.typing import NDArray

from scope_cpp.errors import ScopeError, UsageError
from scope_cpp.files import behind_links, check_replaceable, replacing
from scope_cpp.printable import other_start

MAGIC = b"SCOPECHT"
VERSION = 2

_START = struct.Struct("<8sII")
_DIGEST_SIZE = 32
_AT_HEADER = _START.size + _DIGEST_SIZE
# text and numbers only; JSON of this size is parsed within about a GiB whatever it says
_LARGEST_HEADER = 32 * 2**20
_TYPES = ("uint8", "int32", "int64", "float16", "float32", "float64")
_MOST_DIMENSIONS = 8
_MOST_VALUES = 2**48
_CHUNK = 2**20


@dataclass(frozen=True)
class Member:
    """One array of a file: its type and shape, where it lies, and its digest."""

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    digest: str
    offset: int

    @property
    def n_bytes(self) -> int:
        """Bytes in the file."""
        return math.prod(self.shape) * self.dtype.itemsize


# writing


def write(path: str | Path, header: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write a file so that at any moment either the old one or the whole new one is there.

    A new one can be read by its owner only; an old one keeps its mode. A file that is something
    else is not replaced. A link is followed.

    Raises
    ------
    UsageError
        If `path` can't be a file of ours.
    ScopeError
        If writing fails; the old file, if there is one, is as it was.
    """
    target = _target(path)
    contiguous = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    start = _start(path, header, contiguous)
    try:
        with replacing(target, private=True) as file:
            file.write(start)
            for array in contiguous.values():
                file.write(_bytes_of(array))
    except OSError as err:
        raise _unwritable(path, err) from None


def check_writable(path: str | Path) -> None:
    """Raise what `write` would raise for this path; nothing is written.

    Raises
    ------
    UsageError
        If `path` can't be a file of ours.
    ScopeError
        If there is no permission.
    """
    target = _target(path)
    try:
        check_replaceable(target)
    except OSError as err:
        raise _unwritable(path, err) from None


def _unwritable(path: str | Path, err: OSError) -> ScopeError:
    return ScopeError(f"{path} cannot be written: {err.strerror or err}; save it elsewhere")


def _target(path: str | Path) -> Path:
    """Return the file behind links, after a look at what it is now."""
    try:
        target = behind_links(path)
        if target.is_dir():
            raise UsageError(f"{path} is a directory: name a file in it")
        if not target.parent.is_dir():
            raise UsageError(f"{path} cannot be written: its folder does not exist; make it first")
        if target.exists() and not target.is_file():
            raise UsageError(f"{path} is no regular file: choose another name")
        if target.is_file() and target.stat().st_size:
            with target.open("rb") as file:
                if file.read(len(MAGIC)) != MAGIC:
                    raise UsageError(f"{path} is no saved conversation: choose another name")
    except (OSError, ValueError) as err:  # ValueError: a NUL character in the path
        raise UsageError(
            f"{path!s} cannot be written: {getattr(err, 'strerror', err)}; choose another name"
        ) from None
    return target


def _start(
    path: str | Path, header: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]
) -> bytes:
    table = [
        {
            "name": name,
            "type": array.dtype.name,
            "shape": array.shape,
            "digest": _digest(_bytes_of(array)),
        }
        for name, array in arrays.items()
    ]
    try:
        text = _json({**header, "arrays": table})
    except UnicodeEncodeError:
        raise UsageError(f"{path} cannot be written: a text in it is not valid Unicode") from None
    if len(text) > _LARGEST_HEADER:
        raise ScopeError(f"{path} cannot be written: the messages are over {_LARGEST_HEADER} bytes")
    start = _START.pack(MAGIC, VERSION, len(text))
    return start + bytes.fromhex(_digest(start, text)) + text


def _bytes_of(array: NDArray[Any]) -> memoryview:
    """The bytes of a C-contiguous array, without a copy."""
    flat: Any = array.reshape(-1).view(np.uint8)
    return memoryview(flat)


def _digest(*parts: bytes | memoryview) -> str:
    digest = hashlib.blake2b(digest_size=_DIGEST_SIZE)
    for part in parts:
        digest.update(part)
    return digest.hexdigest()


def _json(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode()


# reading


class SessionFile:
    """An open file whose header is intact; its arrays are read, and checked, one by one.

    Nothing is allocated that the file does not really hold.

    Attributes
    ----------
    header
        What was written, without ``arrays``.
    members
        Its arrays by name, in order.

    Raises
    ------
    UsageError
        If `path` is no such file, of a later version, cut off or changed.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = path
        self._file = _open(path)
        try:
            self._size = os.fstat(self._file.fileno()).st_size
            self.header, self.members = self._read_start()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> SessionFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, err: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def damaged(self, what: str) -> NoReturn:
        """Refuse the file because of `what`."""
        raise UsageError(f"{self.path} is damaged: {what}; take another copy of it")

    def read(self, name: str) -> NDArray[Any]:
        """Return the array `name`.

        Raises
        ------
        UsageError
            If it is missing or changed.
        """
        member = self.members.get(name)
        if member is None:
            self.damaged(f"its {name} is missing")
        array = np.empty(member.shape, member.dtype)
        view, digest = _bytes_of(array), hashlib.blake2b(digest_size=_DIGEST_SIZE)
        self._seek(member.offset)
        for start in range(0, len(view), _CHUNK):
            chunk = view[start : start + _CHUNK]
            self._fill(chunk)
            digest.update(chunk)
        if digest.hexdigest() != member.digest:
            self.damaged(f"its {name} was changed")
        return array

    def _read_start(self) -> tuple[dict[str, Any], dict[str, Member]]:
        start = self._take(min(_START.size, self._size))
        if start[: len(MAGIC)] != MAGIC:
            raise UsageError(f"{self.path} is no saved conversation: {_seen(start)}")
        if self._size < _AT_HEADER:
            self._truncated()
        _, version, n = _START.unpack(start)
        if version != VERSION:
            raise UsageError(
                f"{self.path} has version {version} of the format, this scope-cpp reads "
                f"{VERSION}: open it with the scope-cpp that saved it"
            )
        if n > _LARGEST_HEADER:
            self.damaged(f"it claims a header of {n} bytes")
        if n > self._size - _AT_HEADER:
            self._truncated()
        digest, text = self._take(_DIGEST_SIZE), self._take(n)
        if _digest(start, text) != digest.hex():
            self.damaged("its header was changed")
        header = self._parse(text)
        return header, self._table(header.pop("arrays", None), _AT_HEADER + n)

    def _parse(self, text: bytes) -> dict[str, Any]:
        try:
            header = json.loads(text)
            _json(header)  # refuses half characters
        except (ValueError, RecursionError):
            self.damaged("its header is no JSON")
        if not isinstance(header, dict):
            self.damaged("its header is no JSON object")
        return header

    def _table(self, listed: Any, offset: int) -> dict[str, Member]:
        if not isinstance(listed, list):
            self.damaged("its header lists no arrays")
        members: dict[str, Member] = {}
        for item in listed:
            member = _member(item, offset)
            if member is None or member.name in members:
                self.damaged("its list of arrays makes no sense")
            members[member.name] = member
            offset += member.n_bytes
        if offset > self._size:
            self._truncated()
        if offset < self._size:
            self.damaged(f"{self._size - offset} bytes follow its end")
        return members

    def _take(self, n: int) -> bytes:
        taken = bytearray(n)
        self._fill(memoryview(taken))
        return bytes(taken)

    def _seek(self, offset: int) -> None:
        self._file.seek(offset)

    def _fill(self, view: memoryview) -> None:
        try:
            while view:
                n = self._file.readinto(view)  # type: ignore[attr-defined]
                if not n:
                    self._truncated()
                view = view[n:]
        except OSError as err:
            raise ScopeError(
                f"{self.path} cannot be read: {err.strerror or err}; try again"
            ) from None

    def _truncated(self) -> NoReturn:
        raise UsageError(f"{self.path} is truncated: a part is missing; take another copy of it")


def _open(path: str | Path) -> BinaryIO:
    try:
        # opening a pipe must not wait for its other end
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise UsageError(f"{path} does not exist: give the path of a saved conversation") from None
    except (OSError, ValueError) as err:  # ValueError: a NUL character in the path
        reason = getattr(err, "strerror", err)
        raise UsageError(
            f"{path!s} cannot be read: {reason}; give the path of a saved conversation"
        ) from None
    kind = os.fstat(descriptor).st_mode
    if stat.S_ISREG(kind):
        return os.fdopen(descriptor, "rb", buffering=0)
    os.close(descriptor)
    what = "a directory" if stat.S_ISDIR(kind) else "no regular file"
    raise UsageError(f"{path} is {what}: give the path of a saved conversation")


def _seen(start: bytes) -> str:
    return "it is a GGUF model" if start.startswith(b"GGUF") else other_start(start, MAGIC)


def _member(item: Any, offset: int) -> Member | None:
    """Return a line of the table as it should be, or None."""
    if not isinstance(item, dict):
        return None
    name, kind, shape, digest = (item.get(key) for key in ("name", "type", "shape", "digest"))
    if not isinstance(name, str) or not isinstance(digest, str) or kind not in _TYPES:
        return None
    if not isinstance(shape, list) or len(shape) > _MOST_DIMENSIONS:
        return None
    if any(type(n) is not int or n < 0 for n in shape):
        return None
    if math.prod(max(n, 1) for n in shape) > _MOST_VALUES:
        return None
    return Member(name, np.dtype(kind), tuple(shape), digest, offset)
