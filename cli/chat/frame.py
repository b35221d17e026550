"""Lines at the bottom of a terminal that are drawn again in place."""

from __future__ import annotations

import contextlib
import math
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile

from .. import terminal

_HIDE_CURSOR, _SHOW_CURSOR = "\x1b[?25l", "\x1b[?25h"
_PASTE_ON, _PASTE_OFF = "\x1b[?2004h", "\x1b[?2004l"
# what is between them appears at once, on terminals that know how
_BEGIN, _END = "\x1b[?2026h", "\x1b[?2026l"
# a line that is wider than we think must not become two: they could not be found again
_NO_WRAP, _WRAP = "\x1b[?7l", "\x1b[?7h"
# from the second column: where a whole screen is cleared, tmux keeps a copy in its history
_CLEAR_BELOW = "\r \x1b[J\r"


@dataclass(frozen=True)
class Styled:
    """A line as it is sent to the terminal, and the columns that it takes."""

    text: str
    width: int


class Frame:
    """What is printed for good, and below it what is not.

    Parameters
    ----------
    reflows
        Whether the terminal breaks lines anew when it gets narrower.
    """

    def __init__(self, reflows: bool) -> None:
        self._reflows = reflows
        self._drawn: list[Styled] = []
        self._columns = 0

    def draw(self, done: Sequence[Styled], tail: Sequence[Styled], columns: int) -> None:
        """Print `done` in place of what is drawn, then draw `tail`, the cursor at its end.

        What did not change is left alone. Lines of `tail` are no wider than the terminal.
        """
        same = 0
        if not done and columns == self._columns:
            if list(tail) == self._drawn:
                return
            pairs = zip(self._drawn, tail, strict=False)
            same = len(list(takewhile(lambda pair: pair[0] == pair[1], pairs)))
            # the cursor is at the end of the last line: that one is drawn again
            same -= same == len(tail) and same > 0
        start = "\n" if same and same == len(self._drawn) else self._to_line(same, columns)
        printed = "".join(line.text + "\n" for line in done)
        drawn = "\n".join(line.text for line in tail[same:])
        terminal.write(f"{_BEGIN}{start}{printed}{_NO_WRAP}{drawn}{_WRAP}{_END}")
        self._drawn, self._columns = list(tail), columns

    def _to_line(self, n: int, columns: int) -> str:
        """Go from the end of the last line to the start of line `n`, and clear from there."""
        up = sum(self._rows(line, columns) for line in self._drawn[n:]) - 1
        return (f"\x1b[{up}A" if up > 0 else "") + _CLEAR_BELOW

    def _rows(self, line: Styled, columns: int) -> int:
        wraps = self._reflows and columns < self._columns
        return max(1, math.ceil(line.width / columns)) if wraps else 1


def breaks_lines_anew() -> bool:
    """Whether this terminal breaks lines anew when it gets narrower; all but a few do."""
    return not os.environ.get("XTERM_VERSION") and os.environ.get("TERM") != "linux"


def size() -> tuple[int, int]:
    """Return columns and rows of the terminal on stdout; never less than 4 and 2."""
    try:
        columns, rows = os.get_terminal_size(sys.stdout.fileno())
    except (OSError, ValueError):
        columns, rows = 80, 24
    return max(4, columns or 80), max(2, rows or 24)


@contextlib.contextmanager
def keys_kept(plain: bool) -> Iterator[None]:
    """Neither show nor interpret what is typed ahead: the next prompt gets it, a paste as one.

    Ctrl-C stays a signal. Where stdin is no terminal of POSIX, nothing is done. With `plain`, the
    terminal is sent nothing.
    """
    try:
        import termios
    except ImportError:
        yield
        return
    try:
        number = sys.stdin.fileno()
        before = termios.tcgetattr(number)
    except (termios.error, OSError, ValueError, AttributeError):
        yield
        return
    changed = termios.tcgetattr(number)
    changed[0] &= ~termios.ICRNL
    changed[3] &= ~(termios.ECHO | termios.ICANON)
    termios.tcsetattr(number, termios.TCSADRAIN, changed)
    try:
        terminal.write("" if plain else _PASTE_ON + _HIDE_CURSOR)
        yield
    finally:
        termios.tcsetattr(number, termios.TCSADRAIN, before)
        with contextlib.suppress(OSError):
            terminal.write("" if plain else _PASTE_OFF + _SHOW_CURSOR)
