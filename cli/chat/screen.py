"""Where an answer appears: Markdown on a terminal, plain text anywhere else.

On a terminal, what is finished is printed once and stays; only the unfinished end, a few lines,
is drawn again in place. So the scrollback holds every line once, and the work for a frame does
not grow with the answer.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Protocol

from scope_cpp.printable import Printable

from .. import terminal
from .text import Thoughts

if TYPE_CHECKING:
    from .blocks import Unit
    from .frame import Styled
    from .markdown import Line

FRAMES_PER_SECOND = 15
# Share of the time that may go into drawing
_DRAWING = 0.2


class Screen(Protocol):
    """Takes an answer as it comes."""

    def begin(self, waiting: str) -> None:
        """Begin an answer; `waiting` says what is done until its first text."""

    def wait(self, waiting: str) -> None:
        """Say anew what is done; before the first text only."""

    def write(self, text: str) -> None:
        """Take the next piece."""

    def end(self) -> None:
        """End it: all of it is shown, and the cursor is on a new line."""


def is_plain() -> bool:
    """Whether stdout wants neither colours nor movements of the cursor."""
    if sys.stdout is None or not sys.stdout.isatty() or os.environ.get("NO_COLOR"):
        return True
    return os.environ.get("TERM", "dumb") in ("dumb", "unknown", "")


class Plain:
    """Text as it comes.

    Parameters
    ----------
    safe
        Whether control characters are made visible; a file or a pipe gets the text as it is.
    """

    def __init__(self, safe: bool) -> None:
        self._safe = safe
        self._printable = Printable()
        self._last = ""
        self._waits = False

    def begin(self, waiting: str) -> None:
        """Begin an answer."""
        self._printable, self._last = Printable(), ""
        self._waits = False

    def wait(self, waiting: str) -> None:
        """Say it once, to people only: nothing is drawn in place here."""
        if not self._waits and terminal.is_terminal():
            terminal.note(waiting)
        self._waits = True

    def write(self, text: str) -> None:
        """Write the next piece."""
        self._put(self._printable.push(text) if self._safe else text)

    def end(self) -> None:
        """End with a newline, if there was any text."""
        self._put(self._printable.finish())
        if self._last not in ("", "\n"):
            terminal.write("\n")

    def _put(self, text: str) -> None:
        if text:
            terminal.write(text)
            self._last = text[-1]


class Rich:
    """Markdown on a terminal.

    Parameters
    ----------
    size
        Returns columns and rows of the terminal.
    clock
        Returns seconds.
    """

    def __init__(
        self,
        size: Callable[[], tuple[int, int]] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        from rich.console import Console
        from rich.theme import Theme

        from . import frame

        theme = Theme({"markdown.code": "cyan"})
        self._console = Console(file=sys.stdout, force_terminal=True, theme=theme)
        self._size = size or frame.size
        self._clock = clock
        self._frame = frame.Frame(frame.breaks_lines_anew())
        self.begin("")

    def begin(self, waiting: str) -> None:
        """Begin an answer; show `waiting` until it has text."""
        from .blocks import Lines, Splitter
        from .markdown import Renderer

        self._waiting = waiting
        self._printable, self._thoughts = Printable(), Thoughts()
        self._thinking: Lines | None = None
        self._answer: Splitter | None = None
        self._splitter = Splitter
        self._lines = Lines
        self._renderer = Renderer(self._console)
        self._next_frame = 0.0
        if waiting:
            self._draw([])

    def wait(self, waiting: str) -> None:
        """Show it in place of what is shown, some times a second."""
        self._waiting = waiting
        self._draw_in_time()

    def write(self, text: str) -> None:
        """Take the next piece; draw it now or with what follows."""
        self._push(self._printable.push(text))
        self._draw_in_time()

    def _draw_in_time(self) -> None:
        started = self._clock()
        if started >= self._next_frame:
            self._draw(self._finished())
            now = self._clock()
            self._next_frame = now + max(1 / FRAMES_PER_SECOND, (now - started) / _DRAWING)

    def end(self) -> None:
        """Print what is left for good."""
        self._push(self._printable.finish())
        for part in self._thoughts.finish():
            self._take(part.text, part.thought)
        self._waiting = ""
        units = list(self._finished())
        for source in (self._thinking, self._answer):
            units += source.finish() if source is not None else ()
        self._thinking = self._answer = None
        self._draw(units)

    def _push(self, text: str) -> None:
        for part in self._thoughts.push(text):
            self._take(part.text, part.thought)

    def _take(self, text: str, thought: bool) -> None:
        if thought:
            self._thinking = self._thinking or self._lines(longest=self._early())
            self._thinking.push(text)
        else:
            if self._answer is None:
                self._answer = self._splitter(self._thinking is not None, self._early())
            self._answer.push(text)

    def _early(self) -> int:
        """Characters that are drawn again and again: two lines or so."""
        return max(40, 2 * self._size()[0])

    def _finished(self) -> Iterable[Unit]:
        if self._thinking is not None:
            yield from self._thinking.units() if self._answer is None else self._thinking.finish()
        if self._answer is not None:
            yield from self._answer.units()

    def _draw(self, units: Iterable[Unit]) -> None:
        columns, rows = self._size()
        done: list[Line] = []
        for unit in units:
            done += self._renderer.finished(unit, columns)
        tail = self._tail(columns)[-max(1, rows // 3) :]
        self._frame.draw(self._styled(done), self._styled(tail), columns)

    def _tail(self, columns: int) -> list[Line]:
        """Return the lines of what is unfinished."""
        source = self._answer or self._thinking
        rest = source.rest() if source is not None else None
        if rest is not None:
            return self._renderer.lines(rest, columns)
        return self._renderer.hint(self._waiting, columns) if source is None else []

    def _styled(self, lines: Iterable[Line]) -> list[Styled]:
        from rich.segment import Segments

        from .frame import Styled

        styled = []
        for line in lines:
            with self._console.capture() as captured:
                self._console.print(Segments(line), soft_wrap=True, end="")
            styled.append(Styled(captured.get(), sum(part.cell_length for part in line)))
        return styled
