"""Where a figure goes: a picture with its numbers beside it, or a terminal."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from textwrap import wrap
from typing import BinaryIO

from scope_cpp.errors import ScopeError, UsageError
from scope_cpp.figures import style
from scope_cpp.figures.figure import Figure
from scope_cpp.figures.marks import Marks
from scope_cpp.files import behind_links, check_named, replacing
from scope_cpp.json_text import json_text

WIDTH = 80
_LETTERS = 92  # of a line of the heading, in a picture


@dataclass(frozen=True)
class Target:
    """What is written.

    Attributes
    ----------
    picture, numbers
        Files of the picture and of the CSV; ``None``: none is written.
    """

    picture: Path | None
    numbers: Path | None


def target(name: str, out: str | None, csv: str | None, text: bool) -> Target:
    """Decide where the figure `name` goes, before a model runs for it.

    Parameters
    ----------
    name
        Of the figure: its files are ``scope-NAME.png`` and ``scope-NAME.csv`` by default.
    out
        File of the picture, ``-`` for the terminal; ``None``: the default, or the terminal where
        there is no matplotlib.
    csv
        File of the numbers; ``None``: beside the picture.
    text
        The terminal.

    Raises
    ------
    UsageError
        If a file can't be written, or the format is none of png, svg and pdf.
    ScopeError
        If a picture is asked for and there is no matplotlib.
    """
    if text and out not in (None, "-"):
        raise UsageError(f"--text and -o {out}: leave one out")
    text = text or out == "-"
    if out is None and not text:
        text, out = not style.has_matplotlib(), f"scope-{name}.png"
    if text or out is None:
        return Target(None, None if csv is None else check_named("--csv", csv))
    if not style.has_matplotlib():
        raise ScopeError(f"-o {out} needs matplotlib: {style.INSTALL}, or give --text")
    picture = check_named("-o", out)
    if _form(picture) not in style.FORMATS:
        raise UsageError(f"-o {out}: name it *.{', *.'.join(style.FORMATS)}, or - for the terminal")
    if csv is None:
        return Target(picture, check_named("--csv", str(picture.with_suffix(".csv"))))
    return Target(picture, check_named("--csv", csv))


def write(figure: Figure, to: Target) -> list[Path]:
    """Write the files of a figure; return which.

    Raises
    ------
    ScopeError
        If one can't be written.
    """
    written = []
    if to.picture is not None:
        with style.canvas(figure.size) as drawn:
            figure.draw(drawn)
            drawn.suptitle(_heading(figure, _LETTERS), x=0.01, ha="left")
            with _replacing(to.picture) as file:
                style.save(drawn, file, _form(to.picture))
        written.append(to.picture)
    if to.numbers is not None:
        with _replacing(to.numbers) as file:
            file.write(figure.table().csv().encode())
        written.append(to.numbers)
    return written


@contextmanager
def _replacing(path: Path) -> Iterator[BinaryIO]:
    try:
        with replacing(behind_links(path)) as file:
            yield file
    except OSError as err:
        raise ScopeError(f"{path} cannot be written: {err.strerror or err}") from None


def as_text(figure: Figure, marks: Marks, width: int = WIDTH) -> str:
    """Return the rendering for a terminal, title first."""
    body = "\n".join(line.rstrip() for line in figure.text(width, marks).splitlines())
    return f"{_heading(figure, width)}\n\n{body}\n"


def as_json(figure: Figure) -> str:
    """Return the numbers as one JSON object."""
    content = {
        "figure": figure.name,
        "title": figure.title,
        "run": figure.run,
        "rows": figure.table().records(),
    }
    return json_text(content)


def _heading(figure: Figure, width: int) -> str:
    lines = (wrapped for text in (figure.title, figure.run) for wrapped in wrap(text, width))
    return "\n".join(lines)


def _form(path: Path) -> str:
    return path.suffix.lstrip(".").lower()
