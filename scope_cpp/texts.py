"""Texts that users give in files: UTF-8, with or without a byte-order mark, and nothing else.

A text in another encoding is refused in one line: guessed wrongly, it would be read as another one.
"""

from __future__ import annotations

import codecs

BOM = codecs.BOM_UTF8

# UTF-32 first: its mark begins with that of UTF-16
_OTHERS = {
    codecs.BOM_UTF32_LE: "UTF-32",
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}
_REMEDY = "save it as UTF-8"


class NotText(ValueError):
    """Bytes that are no text in UTF-8; the message says what is wrong, and the remedy."""


def decode(data: bytes) -> str:
    """Return a text without its byte-order mark.

    Raises
    ------
    NotText
    """
    require_mark(data)
    require_utf8(data)
    return data.removeprefix(BOM).decode()


def require_mark(data: bytes) -> None:
    """Raise `NotText` if the first bytes are of another encoding, with or without its mark."""
    for mark, name in _OTHERS.items():
        if data.startswith(mark):
            raise NotText(f"it is {name}, not UTF-8: {_REMEDY}")
    _require_no_nul(data[:4])


def require_utf8(data: bytes) -> None:
    """Raise `NotText` if a part of a text is not UTF-8, or has a NUL byte as no text has."""
    _require_no_nul(data)
    try:
        data.decode()
    except UnicodeDecodeError as err:
        raise NotText(f"byte {err.start} is not UTF-8: {_REMEDY}") from None


def _require_no_nul(data: bytes) -> None:
    nul = data.find(b"\0")
    if nul >= 0:
        raise NotText(f"byte {nul} is NUL, as in UTF-16 or in a binary file: {_REMEDY}")
