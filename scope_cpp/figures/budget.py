"""Accuracy against the decode budget, a line for each method or scoring rule."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from scope_cpp.errors import UsageError
from scope_cpp.eval.metrics import is_full
from scope_cpp.figures import curves, style
from scope_cpp.figures.curves import Curve, Point
from scope_cpp.figures.figure import Figure
from scope_cpp.figures.marks import Marks
from scope_cpp.figures.runs import Measure, Record, Run, cells_name, cells_of, numbered
from scope_cpp.figures.table import Table, Value

# more lines than that can't be told apart: each method gets a row of its own
MOST_LINES = 8


@dataclass(frozen=True)
class Budget(Figure):
    """Scores by number of cells.

    Attributes
    ----------
    axis
        Name of the numbers that the scores are drawn against.
    curves
        A line for each method.
    full
        The row of the full cache; ``None`` if the run has none.
    measure
        What is drawn.
    """

    run: str
    axis: str
    curves: tuple[Curve, ...]
    full: Record | None
    measure: Measure

    name: ClassVar[str] = "budget"

    @property
    def title(self) -> str:
        """Says what is drawn."""
        return f"{self.measure.heading} against the decode budget, with 95% intervals"

    def table(self) -> Table:
        """A line for each point; the full cache has no number of cells."""
        rows: list[tuple[Value, ...]] = []
        if self.full is not None:
            value, ci = curves.score_of(self.full)
            rows.append(("full", None, value, *(ci or (None, None))))
        for curve in self.curves:
            for point in curve.points:
                low, high = point.ci or (None, None)
                rows.append((curve.name, point.at, point.value, low, high))
        return Table(("row", "cells", "score", "ci_low", "ci_high"), tuple(rows))

    @property
    def size(self) -> tuple[float, float]:
        """As high as the rows need, where there are rows."""
        width, height = super().size
        if len(self.curves) <= MOST_LINES:
            return width, height
        return width, max(height, 1.4 + 0.3 * len(self.curves))

    @property
    def places(self) -> list[float]:
        """Numbers of cells, ascending."""
        return sorted({point.at for curve in self.curves for point in curve.points})

    def draw(self, canvas: Any) -> None:
        """Draw a line with a band for each method, over a logarithmic axis; or rows if many."""
        if len(self.curves) > MOST_LINES:
            self._draw_rows(canvas)
            return
        axes = canvas.subplots()
        if self.full is not None:
            curves.level(axes, "full cache", *curves.score_of(self.full), self.measure)
        for curve in self.curves:
            curves.draw(axes, curve, self.measure)
        curves.limit(axes, self.measure)
        axes.set_xscale("log", base=2)
        ticks = apart(self.places)
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.minorticks_off()
        axes.set_xlabel(self.axis)
        style.legend(canvas)

    def _draw_rows(self, canvas: Any) -> None:
        """Draw a row for each method, the best on top, with a marker for each number of cells."""
        axes, scale = canvas.subplots(), self.measure.factor
        rows = sorted(self.curves, key=lambda c: sum(p.value for p in c.points) / len(c.points))
        if self.measure.top is None:  # the lower the better
            rows.reverse()
        for number, place in enumerate(self.places):
            look, shift = style.look(number), 0.22 * ((len(self.places) - 1) / 2 - number)
            points = [(y + shift, p) for y, c in enumerate(rows) for p in c.points if p.at == place]
            for y, point in points:
                if point.ci is not None:
                    axes.hlines(y, *(scale * end for end in point.ci), color=look.colour, lw=1)
            values = [scale * point.value for _, point in points]
            axes.plot(
                values, [y for y, _ in points], color=look.colour, marker=look.marker,
                linestyle="", label=f"{place:g} {self.axis}",
            )  # fmt: skip
        if self.full is not None:
            value = scale * curves.score_of(self.full)[0]
            axes.axvline(value, color="black", linestyle=(0, (6, 3)), lw=1.2, label="full cache")
        axes.set_yticks(range(len(rows)), [curve.name for curve in rows])
        axes.set_ylim(-0.6, len(rows) - 0.4)
        axes.set_xlabel(self.measure.label)
        curves.stretch(axes, self.measure, "x")
        axes.grid(axis="x")
        style.legend(canvas, handlelength=2)

    def text(self, width: int, marks: Marks) -> str:
        """Return bars under each other, by number of cells."""
        lines = []
        full = [] if self.full is None else [Point(0, *curves.score_of(self.full))]
        most = curves.largest([*full, *(point for curve in self.curves for point in curve.points)])
        for place in self.places:
            points = [("full cache", point) for point in full]
            points += [(c.name, p) for c in self.curves for p in c.points if p.at == place]
            lines.append(f"{place:g} {self.axis}")
            lines += [*curves.bars(points, most, self.measure, width, marks), ""]
        lines.append(f"{marks.bar} {self.measure.name}, {marks.reach} its 95% interval")
        return "\n".join(lines)


def budget(run: Run) -> Budget:
    """Take the scores of the rows at their budgets from one run, or several as one.

    Raises
    ------
    UsageError
        If no method was run with two budgets.
    """
    found: dict[str, dict[float, Record]] = {}
    full = None
    for record in run.records:
        if is_full(record):
            full = full or record
            continue
        same, cells = found.setdefault(record["series"], {}), cells_of(record)
        if cells in same:
            raise UsageError(
                f"rows {same[cells]['row']!r} and {record['row']!r} both have {cells} cells: "
                "give one another name with --row"
            )
        same[cells] = record
    if max(map(len, found.values()), default=0) < 2:
        raise UsageError(
            f"{run.path}: no method was run with two budgets: give 'scope eval run' --beta 48,96"
        )
    numbers = numbered(run.records)
    lines = tuple(line_of(name, numbers[name], same) for name, same in found.items())
    return Budget(run.describe(), cells_name(run.records), lines, full, run.measure)


def line_of(name: str, number: int, records: Mapping[float, Record]) -> Curve:
    """Return the scores of rows by place on the axis."""
    points = (Point(place, *curves.score_of(records[place])) for place in sorted(records))
    return Curve(name, number, tuple(points))


def apart(places: Sequence[float]) -> list[float]:
    """Return those of ascending places whose labels do not touch on a logarithmic axis."""
    least = (places[-1] / places[0]) ** 0.06
    ticks = [places[-1]]
    for place in reversed(places[:-1]):
        if ticks[-1] / place >= least:
            ticks.append(place)
    return ticks[::-1]
