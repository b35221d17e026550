"""Where the demo appears: drawn in place on a terminal, line by line elsewhere, or not at all."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import TYPE_CHECKING

from . import demo_view as view
from . import terminal
from .chat.frame import Frame, Styled, breaks_lines_anew, keys_kept, size
from .chat.heatmap import SHADES
from .chat.screen import FRAMES_PER_SECOND, is_plain

if TYPE_CHECKING:
    from scope_cpp.demo.outcome import Outcome
    from scope_cpp.demo.run import Demo

# Share of the time that may go into drawing
_DRAWING = 0.05

_STYLES = {0: "\x1b[2m{}\x1b[0m", 1: "{}", 2: "\x1b[1m{}\x1b[0m"}


class Screen:
    """Takes the demo as it goes; this one shows nothing."""

    def __enter__(self) -> Screen:
        return self

    def __exit__(self, *error: object) -> None:
        return None

    def begin(self, demo: Demo) -> None:
        """Show what is about to happen."""

    def update(self, demo: Demo, now: Outcome) -> None:
        """Show a token more of a row."""

    def end(self, demo: Demo) -> None:
        """Show what came of it."""


class Lines(Screen):
    """Each row of the table when it is finished; how long the rest takes goes to stderr."""

    def begin(self, demo: Demo) -> None:
        """Write what this is, and the head of the table."""
        self._columns, self._n_shown = shutil.get_terminal_size().columns, 0
        self._write([*view.intro(demo, self._columns), view.Line("")])
        self._write(view.table(demo, self._columns, shades())[:1])

    def update(self, demo: Demo, now: Outcome) -> None:
        """Write a row that is finished."""
        if now.finished:
            self._write_rows(demo, 1)
            if self._n_shown == 1:
                terminal.note("".join(view.time_left(demo)))

    def end(self, demo: Demo) -> None:
        """Write a row that was stopped, the maps, and what was seen."""
        begun = sum(bool(outcome.texts) for outcome in demo.outcomes)
        self._write_rows(demo, begun - self._n_shown)
        self._write([view.Line(""), *view.ending(demo, self._columns, shades())])

    def _write_rows(self, demo: Demo, n: int) -> None:
        rows = view.table(demo, self._columns, shades())[1:]
        self._write(rows[self._n_shown : self._n_shown + n])
        self._n_shown += n

    def _write(self, lines: view.Block) -> None:
        terminal.write("".join(f"{line.text}\n" for line in lines))


class Live(Screen):
    """Everything, drawn again in its place; what is there at the end stays."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._opened = ExitStack()
        self._frame = Frame(breaks_lines_anew())
        self._next = 0.0

    def __enter__(self) -> Live:
        self._opened.enter_context(keys_kept(plain=False))
        return self

    def __exit__(self, *error: object) -> None:
        if error[0] is not None:
            self._frame.draw([], [], size()[0])
        self._opened.close()

    def begin(self, demo: Demo) -> None:
        """Draw the table without numbers."""
        self._draw(demo, None)

    def update(self, demo: Demo, now: Outcome) -> None:
        """Draw anew, a few times a second."""
        started = self._clock()
        if now.finished or started >= self._next:
            self._draw(demo, now)
            ended = self._clock()
            self._next = ended + max(1 / FRAMES_PER_SECOND, (ended - started) / _DRAWING)

    def end(self, demo: Demo) -> None:
        """Print everything for good."""
        columns, rows = size()
        self._frame.draw(_styled(view.whole(demo, columns, rows, shades())), [], columns)

    def _draw(self, demo: Demo, now: Outcome | None) -> None:
        columns, rows = size()
        self._frame.draw([], _styled(view.running(demo, now, columns, rows, shades())), columns)


def choose(as_json: bool, verbose: bool) -> Screen:
    """The screen for what stdout is; llama.cpp's log would get into the way of a live one."""
    if as_json:
        return Screen()
    return Lines() if verbose or is_plain() else Live()


def shades() -> str:
    """Marks that stdout can take."""
    encoding = (getattr(sys.stdout, "encoding", None) or "ascii").lower()
    return SHADES[0 if encoding.startswith("utf") else 1]


def _styled(lines: view.Block) -> list[Styled]:
    return [Styled(_STYLES[line.weight].format(line.text), len(line.text)) for line in lines]
