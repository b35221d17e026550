r"""Text of strangers, made safe to print.

A file's metadata, a dataset and what a model writes may hold characters that a terminal takes as
commands, that show text in another order than it has, or that begin a line of their own.
"""

from __future__ import annotations

import re

_TAB = "    "
# C0 without tab and newline, DEL, C1: a terminal takes them as commands; surrogates: no encoding
# takes them
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")
# marks, embeddings, overrides and isolates of the writing direction
_DIRECTION = re.compile(r"[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")
_LINE_BREAKS = re.compile(r"\s*[\n\r\v\f\x1c-\x1e\x85\u2028\u2029]\s*")

_UNKNOWN = "\ufffd"


def printable(text: str) -> str:
    r"""Return `text` with every control character but the newline made visible.

    >>> printable("a\x1b[31mb")
    'a␛[31mb'
    """
    return _CONTROL.sub(_picture, text.replace("\t", _TAB))


def harmless(text: str) -> str:
    r"""Return `text` as `printable` does, and nothing in it turns the writing direction either.

    Right for what is shown among words of ours; a text in Arabic may need such characters.

    >>> harmless("model\u202efugg.exe")
    'model\ufffdfugg.exe'
    """
    return _DIRECTION.sub(_UNKNOWN, printable(text))


def one_line(text: str, most: int = 2000) -> str:
    r"""Return `text` harmless, in one line, and cut in its middle if it is longer than `most`.

    >>> one_line("first\nerror: second", most=50)
    'first error: second'
    """
    line = harmless(_LINE_BREAKS.sub(" ", text.strip()))
    if len(line) <= most:
        return line
    half = (most - 1) // 2
    return f"{line[:half]}…{line[-half:]}"


def _picture(match: re.Match[str]) -> str:
    code = ord(match[0])
    if code < 0x20:
        return chr(0x2400 + code)
    return "\u2421" if code == 0x7F else _UNKNOWN


def other_start(start: bytes, wanted: bytes) -> str:
    """Say what a file begins with that should begin with `wanted`, in letters where it has some.

    >>> other_start(b"# sc", b"GGUF")
    "it begins with '# sc' instead of 'GGUF'"
    """
    if not start:
        return "it is empty"
    found = start[: len(wanted)]
    is_text = all(0x20 <= byte < 0x7F for byte in found)
    told = f"'{found.decode('ascii')}'" if is_text else f"the bytes {found.hex(' ')}"
    return f"it begins with {told} instead of '{wanted.decode('ascii')}'"


class Printable:
    """`printable` for a text that arrives in pieces; Windows newlines become newlines."""

    def __init__(self) -> None:
        self._held = ""

    def push(self, piece: str) -> str:
        """Return what can be shown; a last carriage return waits for its newline."""
        text = self._held + piece
        self._held = "\r" if text.endswith("\r") else ""
        return printable(text[: len(text) - len(self._held)].replace("\r\n", "\n"))

    def finish(self) -> str:
        """Return what was held back."""
        held, self._held = self._held, ""
        return printable(held)
