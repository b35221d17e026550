"""Accuracy against the decode budget, a line for each method or scoring rule."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from scope_cpp.errors import UsageError
from scope_cpp.eval.metrics import is_full
from scope_cpp.figures import curves
from scope_cpp.figures.curves import Curve, Point
from scope_cpp.figures.figure import Figure
from scope_cpp.figures.marks import Marks
from scope_cpp.figures.runs import Measure, Record, Run, cells_name, cells_of, numbered
from scope_cpp.figures.table import Table, Value


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
        return f"{self.measure.name.capitalize()} against the decode budget, with 95% intervals"

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

    def draw(self, canvas: Any) -> None:
        """Draw a line with a band for each method, over a logarithmic axis."""
        axes = canvas.subplots()
        if self.full is not None:
            curves.level(axes, "full cache", *curves.score_of(self.full), self.measure)
        for curve in self.curves:
            curves.draw(axes, curve, self.measure)
        curves.limit(axes, self.measure)
        places = sorted({point.at for curve in self.curves for point in curve.points})
        axes.set_xscale("log", base=2)
        ticks = apart(places)
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.minorticks_off()
        axes.set_xlabel(self.axis)
        canvas.legend(loc="outside lower center", ncols=3, frameon=False, handlelength=3.5)

    def text(self, width: int, marks: Marks) -> str:
        """Return bars under each other, by number of cells."""
        lines = []
        full = [] if self.full is None else [Point(0, *curves.score_of(self.full))]
        most = curves.largest([*full, *(point for curve in self.curves for point in curve.points)])
        for place in sorted({point.at for curve in self.curves for point in curve.points}):
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
