"""The flags of ``scope plot``."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Annotated

import typer

from . import completion
from .flags import CACHE, Config, Json, PolicyFlags, Verbose
from .groups import flag
from .help_page import OUTPUT

_figure = partial(flag, "Figure")
_cache = partial(flag, CACHE)
_output = partial(flag, OUTPUT)

RunFolder = Annotated[
    str,
    typer.Argument(
        metavar="RUN", help="A run's folder, made by 'scope eval run'.", show_default=False
    ),
]
RunFolders = Annotated[
    list[str],
    typer.Argument(
        metavar="RUN...",
        help="Folders made by 'scope eval run', of the same samples and model.",
        show_default=False,
    ),
]
Measured = Annotated[
    str,
    typer.Argument(
        metavar="RUN|FILE",
        help="A folder made by 'scope eval run', or a file made by 'scope bench -o json'.",
        show_default=False,
    ),
]


@dataclass(frozen=True)
class PictureFlags:
    """Where a figure goes."""

    picture: Annotated[
        str | None,
        _output(
            "--picture",
            "-o",
            metavar="FILE.png|svg|pdf",
            help="Write the picture to this file; - draws in the terminal.",
            show_default="scope-FIGURE.png, or the terminal without matplotlib",
        ),
    ] = None
    csv: Annotated[
        str | None,
        _output(
            "--csv",
            metavar="FILE",
            help="Write the numbers that are drawn to this file.",
            show_default="beside the picture",
        ),
    ] = None
    text: Annotated[
        bool, _output("--text", help="Draw in the terminal. Only --csv still writes a file.")
    ] = False
    json: Json = False
    verbose: Verbose = False
    config: Config = None


@dataclass(frozen=True)
class RowsFlags:
    """Which rows of a run are shown."""

    rows: Annotated[
        list[str] | None,
        _figure(
            "--only",
            metavar="NAME",
            help="Show only this row. Repeat it for several.",
            show_default="all rows",
        ),
    ] = None


@dataclass(frozen=True)
class LongestFlags:
    """How long the output may get."""

    n_predict: Annotated[
        int,
        _figure(
            "--n-predict", "--predict", "-n", min=2, metavar="N", help="Longest output in tokens."
        ),
    ] = 1000


@dataclass(frozen=True)
class DriftFlags:
    """What counts as a heavy hitter, and where."""

    top: Annotated[
        str,
        _figure(
            "--top", metavar="SHARE", help="Share of the positions that count as heavy hitters."
        ),
    ] = "15%"
    layers: Annotated[
        str | None,
        _figure(
            "--layers",
            metavar="N,...",
            help="Layers of the KV cache, counted from 0.",
            show_default="the first, the middle and the last",
        ),
    ] = None


@dataclass(frozen=True)
class HeadFlags:
    """Whose attention is shown."""

    layer: Annotated[
        int | None,
        _figure(
            "--layer",
            min=0,
            metavar="N",
            help="Layer of the KV cache, counted from 0.",
            show_default="the middle one",
        ),
    ] = None
    head: Annotated[int, _figure("--head", min=0, metavar="N", help="KV head, counted from 0.")] = 0


@dataclass(frozen=True)
class MethodFlags(PolicyFlags):
    """What is evicted; -o is the picture here."""

    option: Annotated[
        list[str] | None,
        _cache(
            "--option",
            metavar="KEY=VALUE",
            complete=completion.options,
            help="Set an option of the policies, such as beta1=48. Repeat it for several.",
            show_default=False,
        ),
    ] = None


def share(text: str) -> float:
    """Return a share of ``--top`` as a number.

    Raises
    ------
    UsageError
        If it is none above 0 and below 100 %.
    """
    from scope_cpp.errors import UsageError

    number, percent, _ = text.strip().partition("%")
    try:
        value = float(number) / (100 if percent else 1)
    except ValueError:
        value = 0.0
    if not 0 < value < 1:
        raise UsageError(f"--top {text}: give a share between 0 and 1, such as 15% or 0.15")
    return value


def numbers(text: str | None) -> list[int] | None:
    """Return the layers of ``--layers``.

    Raises
    ------
    UsageError
        If they are no whole numbers.
    """
    from scope_cpp.errors import UsageError

    if text is None:
        return None
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise UsageError(f"--layers {text}: give whole numbers, such as 0,13,31") from None
