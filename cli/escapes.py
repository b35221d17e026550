"""Escape sequences in text that is typed on the command line, as llama.cpp's tools read them."""

from __future__ import annotations

import re

from scope_cpp.errors import UsageError

_SEQUENCE = re.compile(rb"""\\(?:([nrt'"\\])|x([0-9a-fA-F]{2}))""")
_CHARACTERS = {b"n": b"\n", b"r": b"\r", b"t": b"\t"}


def unescaped(text: str, flag: str) -> str:
    r"""Return `text` with ``\n \r \t \' \" \\`` and ``\x41`` as the characters that they stand for.

    Other backslashes stay.

    Raises
    ------
    UsageError
        If bytes given as ``\x`` are not UTF-8; the message names `flag`.
    """
    raw = _SEQUENCE.sub(_character, text.encode("utf-8", errors="surrogatepass"))
    try:
        return raw.decode("utf-8", errors="surrogatepass")
    except UnicodeDecodeError:
        raise UsageError(
            rf"{flag}: the bytes given as \x are not UTF-8: correct them, or give --no-escape"
        ) from None


def _character(match: re.Match[bytes]) -> bytes:
    letter, code = match.groups()
    return bytes([int(code, 16)]) if code else _CHARACTERS.get(letter, letter)
