"""Lines of an input, one after the other, however long they are."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

# Longest line, in bytes: what is longer is passed over instead of read into memory
MOST_LINE = 2**26

_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class Line:
    """A line without its end; one that is too long has lost most of it."""

    number: int
    data: bytes
    too_long: bool = False


def lines(file: BinaryIO) -> Iterator[Line]:
    """Yield the lines, one after the other as they are there."""
    number, rest = 0, b""
    while data := file.readline(MOST_LINE + 1):
        if number == 0:
            data = data.removeprefix(_BOM)
        number += 1
        too_long = len(data) > MOST_LINE and not data.endswith(b"\n")
        if too_long:
            rest = data
            while rest and not rest.endswith(b"\n"):
                rest = file.readline(MOST_LINE)
        yield Line(number, data.rstrip(b"\r\n"), too_long)
