"""How pictures look: one palette, one size of letters, nothing that changes from run to run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from typing import Any, BinaryIO

from scope_cpp.errors import ScopeError
from scope_cpp.extras import install

# Okabe and Ito, "Color Universal Design" (2008), without the yellow, which is faint on white
COLOURS = ("#000000", "#0072B2", "#009E73", "#56B4E9", "#D55E00", "#E69F00", "#CC79A7")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">")
DASHES = ("-", "--", "-.", ":")
KEPT, GONE = "#E9F0F6", "#C4C4C4"  # cells

INSTALL = install("plot")

_RC = {
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "axes.titlesize": 10,
    "axes.labelsize": 10,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "legend.fontsize": 9,
    "figure.titlesize": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": False,
    "grid.color": "#E5E5E5",
    "axes.axisbelow": True,
    "lines.linewidth": 1.6,
    "lines.markersize": 5,
    # text stays text, and ids are the same in every run
    "svg.fonttype": "none",
    "svg.hashsalt": "scope-cpp",
    "pdf.fonttype": 42,
}

# what would tell one run's file from another's
_NO_DATES: dict[str, dict[str, Any]] = {
    "png": {"Software": None},
    "svg": {"Date": None, "Creator": None},
    "pdf": {"CreationDate": None, "ModDate": None, "Creator": None, "Producer": None},
}
FORMATS = tuple(_NO_DATES)
DPI = 150


@dataclass(frozen=True)
class Look:
    """How one series is told from the others: by colour, marker and dashes, each alone enough."""

    colour: str
    marker: str
    dash: str

    @property
    def line(self) -> dict[str, str]:
        """Arguments of ``Axes.plot``."""
        return {"color": self.colour, "marker": self.marker, "linestyle": self.dash}


def look(number: int) -> Look:
    """Return the look of the series with this number; the first seven differ in colour."""
    n = len(COLOURS)
    return Look(
        COLOURS[number % n],
        MARKERS[number % len(MARKERS)],
        DASHES[(number % n + number // n) % len(DASHES)],
    )


def shades() -> Any:
    """Return a colour map from nearly white to dark, in one hue."""
    make = import_module("matplotlib.colors").LinearSegmentedColormap.from_list
    return make("shades", (KEPT, "#66AACF", "#0072B2", "#002236"))


def kept_shades() -> Any:
    """Return a colour map from what is given up to what is kept."""
    make = import_module("matplotlib.colors").LinearSegmentedColormap.from_list
    return make("kept", (GONE, KEPT))


def has_matplotlib() -> bool:
    """Whether pictures can be drawn."""
    try:
        import_module("matplotlib.figure")
    except ImportError:
        return False
    return True


@contextmanager
def canvas(size: tuple[float, float]) -> Iterator[Any]:
    """Yield an empty ``matplotlib.figure.Figure``; draw and save it inside of the block.

    Raises
    ------
    ScopeError
        Without matplotlib.
    """
    if not has_matplotlib():
        raise ScopeError(f"a picture needs matplotlib: {INSTALL}, or --text")
    with import_module("matplotlib").rc_context(_RC):
        yield import_module("matplotlib.figure").Figure(figsize=size, layout="constrained")


def legend(canvas: Any, *args: Any, handlelength: float = 3.5) -> None:
    """Say below the axes what is drawn, in as many columns as the picture is wide for."""
    for n_columns in (3, 2, 1):
        drawn = canvas.legend(
            *args, loc="outside lower center", ncols=n_columns, frameon=False,
            handlelength=handlelength,
        )  # fmt: skip
        if n_columns == 1 or drawn.get_window_extent().width <= canvas.bbox.width:
            return
        drawn.remove()


def save(drawn: Any, file: BinaryIO, form: str) -> None:
    """Write a picture in one of `FORMATS`, the same bytes for the same numbers."""
    drawn.savefig(file, format=form, dpi=DPI, metadata=_NO_DATES[form])
