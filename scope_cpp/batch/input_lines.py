"""Lines of an input, one after the other, however long they are."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from scope_cpp.errors import UsageError
from scope_cpp.texts import BOM, NotText, require_mark

# Longest line, in bytes: what is longer is passed over instead of read into memory
MOST_LINE = 2**26


@dataclass(frozen=True)
class Line:
    """A line without its end; one that is too long has lost most of it."""

    number: int
    data: bytes
    too_long: bool = False


def lines(file: BinaryIO) -> Iterator[Line]:
    """Yield the lines, one after the other as they are there.

    Raises
    ------
    UsageError
        If they are not UTF-8, as their first bytes tell.
    """
    number, rest = 0, b""
    while data := file.readline(MOST_LINE + 1):
        if number == 0:
            data = _without_mark(data, getattr(file, "name", None))
            if not data.endswith(b"\n") and b"\r" in data:  # no line ends but those of old Macs
                yield from (Line(n, part) for n, part in enumerate(data.split(b"\r"), start=1))
                return
        number += 1
        too_long = len(data) > MOST_LINE and not data.endswith(b"\n")
        if too_long:
            rest = data
            while rest and not rest.endswith(b"\n"):
                rest = file.readline(MOST_LINE)
        yield Line(number, data.rstrip(b"\r\n"), too_long)


def _without_mark(data: bytes, name: object) -> bytes:
    try:
        require_mark(data)
    except NotText as err:
        what = f"-i {name}" if isinstance(name, str) else "the input"
        raise UsageError(f"{what} can't be read: {err}") from None
    return data.removeprefix(BOM)
