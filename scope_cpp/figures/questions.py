"""Accuracy by question position: who loses the late answers of a long output."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from scope_cpp.errors import UsageError
from scope_cpp.eval import stats
from scope_cpp.eval.metrics import is_full
from scope_cpp.eval.record import Prediction
from scope_cpp.figures import curves, style
from scope_cpp.figures.curves import Curve, Point
from scope_cpp.figures.figure import Figure
from scope_cpp.figures.marks import Marks
from scope_cpp.figures.runs import Measure, Record, Run, cells_name, cells_of, numbered
from scope_cpp.figures.table import Table, Value

_MOST_POINTS = 12
_NO_BUDGET = -1


@dataclass(frozen=True)
class Panel:
    """The rows of one budget; each point is the middle of the questions that it stands for."""

    cells: int
    curves: tuple[Curve, ...]


@dataclass(frozen=True)
class Questions(Figure):
    """Accuracy by position, a panel for each budget.

    Attributes
    ----------
    panels
        By number of cells, the full cache in each.
    cells
        What these numbers count.
    per
        Questions that a point stands for.
    n
        Questions of the longest output.
    measure
        What is drawn.
    """

    run: str
    panels: tuple[Panel, ...]
    cells: str
    per: int
    n: int
    measure: Measure

    name: ClassVar[str] = "questions"

    @property
    def title(self) -> str:
        """Says what is drawn."""
        return f"{self.measure.heading} by {self.measure.part}"

    @property
    def size(self) -> tuple[float, float]:
        """Two panels beside each other."""
        rows = math.ceil(len(self.panels) / 2)
        return 8.0, (3.1 if len(self.panels) > 1 else 4.0) * rows + 1.0

    def table(self) -> Table:
        """A line for each row and point."""
        rows: list[tuple[Value, ...]] = []
        for panel in self.panels:
            cells = None if panel.cells == _NO_BUDGET else panel.cells
            for curve in panel.curves:
                for point in curve.points:
                    first = int((point.at - 1) // self.per) * self.per + 1
                    last = min(first + self.per - 1, self.n)
                    low, high = point.ci or (None, None)
                    rows.append((cells, curve.name, first, last, point.value, low, high))
        columns = "cells", "row", "first_question", "last_question", "score", "ci_low", "ci_high"
        return Table(columns, tuple(rows))

    def draw(self, canvas: Any) -> None:
        """Draw a line for each row."""
        columns = min(2, len(self.panels))
        grid = canvas.subplots(
            math.ceil(len(self.panels) / columns), columns,
            sharex=True, sharey=True, squeeze=False,
        )  # fmt: skip
        handles: dict[str, Any] = {}
        for axes, panel in zip(grid.flat, self.panels, strict=False):
            for curve in panel.curves:
                points = tuple(Point(point.at, point.value, None) for point in curve.points)
                curves.draw(axes, replace(curve, points=points), self.measure)
            if len(self.panels) > 1:
                axes.set_title(f"{panel.cells} {self.cells}")
            curves.limit(axes, self.measure)
            axes.set_xlim(0.5, self.n + 0.5)
            axes.xaxis.get_major_locator().set_params(integer=True)
            handles |= dict(zip(*axes.get_legend_handles_labels()[::-1], strict=True))
        each = "" if self.per == 1 else f", mean of {self.per}"
        for i, axes in enumerate(grid.flat):
            if i >= len(self.panels):
                axes.set_visible(False)
            elif i + columns >= len(self.panels):  # there is none below
                axes.set_xlabel(f"{self.measure.part} of the output{each}")
                axes.tick_params(labelbottom=True)
        for axes in grid[:, 1:].flat:
            axes.set_ylabel("")
        style.legend(canvas, handles.values(), handles)

    def text(self, width: int, marks: Marks) -> str:
        """Return a sparkline for each row, and its first and last point."""
        lines = []
        values = [p.value for panel in self.panels for c in panel.curves for p in c.points]
        most = max(values)
        name_width = max(len(c.name) for panel in self.panels for c in panel.curves)
        wide = max(1, min(4, (width - name_width - 22) // math.ceil(self.n / self.per)))
        for panel in self.panels:
            if len(self.panels) > 1:
                lines.append(f"{panel.cells} {self.cells}")
            for curve in panel.curves:
                steps = marks.spark(self.measure.fill(p.value, most) for p in curve.points)
                spark = "".join(mark * wide for mark in steps)
                first, last = (self.measure.show(curve.points[i].value) for i in (0, -1))
                lines.append(f"{curve.name:<{name_width}}  {spark}  {first:>6} to {last:>6}")
            lines.append("")
        part = self.measure.part
        each = f"a {part}" if self.per == 1 else f"{self.per} {part}s"
        lines.append(f"a step is {each}, first to last; at the right: the first and the last step")
        return "\n".join(lines)


def questions(run: Run, rows: Sequence[str] = ()) -> Questions:
    """Take the accuracy of each position from a run.

    Parameters
    ----------
    run
    rows
        Names of rows or series to show; none: all.

    Raises
    ------
    UsageError
        If there is no such row, or outputs have one question only.
    """
    chosen = choose(run.records, rows)
    samples: dict[str, list[Prediction]] = {record["row"]: [] for record in chosen}
    for prediction in run.samples:
        if prediction.row in samples:
            samples[prediction.row].append(prediction)
    n = max(len(run.positions(p)) for found in samples.values() for p in found)
    if n < 2:
        raise UsageError(f"{run.path}: an output has one question only, there are no positions")
    per = math.ceil(n / _MOST_POINTS)
    found = {record["row"]: _points(samples[record["row"]], run, n, per) for record in chosen}
    budgets = sorted({cells_of(r) for r in chosen if not is_full(r)}) or [_NO_BUDGET]
    numbers = numbered(run.records)
    panels = tuple(
        Panel(
            cells,
            tuple(
                Curve(record["series"], numbers[record["series"]], found[record["row"]])
                for record in chosen
                if is_full(record) or cells_of(record) == cells
            ),
        )
        for cells in budgets
    )
    cells = cells_name(chosen)
    told = f"{budgets[0]} {cells}" if len(budgets) == 1 and budgets[0] != _NO_BUDGET else ""
    return Questions(run.describe(told), panels, cells, per, n, run.measure)


def choose(records: Sequence[Record], rows: Sequence[str]) -> list[Record]:
    """Return the rows with these names, or of these series; all if none is named.

    Raises
    ------
    UsageError
        If there is no such row.
    """
    names = {name for record in records for name in (record["row"], record["series"])}
    wrong = [name for name in rows if name not in names]
    if wrong:
        labels = ", ".join(dict.fromkeys(record["series"] for record in records))
        raise UsageError(f"there is no row {wrong[0]!r}: rows are {labels}")
    return [r for r in records if not rows or r["row"] in rows or r["series"] in rows]


def _points(samples: Sequence[Prediction], run: Run, n: int, per: int) -> tuple[Point, ...]:
    """Means over the questions of each bin, with intervals over the samples."""
    right, asked = _sums([run.positions(p) for p in samples], n, per)
    points = []
    for i in range(right.shape[1]):
        if asked[:, i].any():
            found = stats.estimate(stats.Shares(right[:, i], asked[:, i]), run.config["seed"])
            middle = (i * per + 1 + min((i + 1) * per, n)) / 2
            points.append(Point(middle, found.value, found.ci))
    return tuple(points)


def _sums(
    correct: Sequence[Sequence[float]], n: int, per: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Sum of the values, and their number, of each sample and bin: (samples, bins) each."""
    shape = len(correct), math.ceil(n / per)
    right, asked = np.zeros(shape), np.zeros(shape)
    for i, values in enumerate(correct):
        for question, value in enumerate(values):
            right[i, question // per] += value
            asked[i, question // per] += 1
    return right, asked
