"""Lines with intervals: the part that the figures of accuracy have in common."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from scope_cpp.figures import style
from scope_cpp.figures.marks import Marks
from scope_cpp.figures.runs import Measure, Record
from scope_cpp.figures.style import Look

Interval = tuple[float, float]


@dataclass(frozen=True)
class Point:
    """A score at a place of the axis, with its interval where there is one."""

    at: float
    value: float
    ci: Interval | None


@dataclass(frozen=True)
class Curve:
    """Points of one row under one name, by place.

    Attributes
    ----------
    name
    number
        Place of the row in its run: it has the same look in all figures.
    points
    """

    name: str
    number: int
    points: tuple[Point, ...]


def score_of(record: Record) -> tuple[float, Interval | None]:
    """Return a row's score and its interval."""
    score = record["score"]
    ci = score["ci"]
    return float(score["value"]), None if ci is None else (float(ci[0]), float(ci[1]))


def draw(axes: Any, curve: Curve, measure: Measure) -> None:
    """Draw a line with a marker for each point, and its interval as a band."""
    look = style.look(curve.number)
    places = [point.at for point in curve.points]
    scale = measure.factor
    axes.plot(places, [scale * p.value for p in curve.points], label=curve.name, **look.line)
    known = [point for point in curve.points if point.ci is not None]
    if len(known) == len(curve.points) > 1:
        lows, highs = zip(*((scale * p.ci[0], scale * p.ci[1]) for p in known if p.ci), strict=True)
        axes.fill_between(places, lows, highs, color=look.colour, alpha=0.1, linewidth=0)
        for ends in (lows, highs):
            axes.plot(places, ends, color=look.colour, linestyle=look.dash, linewidth=0.5)
    elif known:
        _whiskers(axes, known, look, scale)


def level(axes: Any, name: str, value: float, ci: Interval | None, measure: Measure) -> None:
    """Draw what does not depend on the axis: a dashed black line, its interval in grey."""
    axes.axhline(measure.factor * value, color="black", linestyle=(0, (6, 3)), label=name, lw=1.2)
    if ci is not None:
        low, high = (measure.factor * end for end in ci)
        axes.axhspan(low, high, color="black", alpha=0.06, linewidth=0)


def limit(axes: Any, measure: Measure) -> None:
    """Show the whole scale, with the space that markers at its ends need."""
    axes.set_ylabel(measure.label)
    if measure.top is not None:
        axes.set_ylim(-0.03 * measure.top, 1.03 * measure.top)
    stretch(axes, measure, "y")
    axes.grid(axis="y")


def stretch(axes: Any, measure: Measure, axis: Literal["x", "y"]) -> None:
    """Make an axis logarithmic if the measure asks for it; zeros then lie at its lower end."""
    least = axes.dataLim.minposx if axis == "x" else axes.dataLim.minposy
    if measure.log and math.isfinite(least):
        axes.set(**{f"{axis}scale": "log"})


def largest(points: Iterable[Point]) -> float:
    """Return the largest value, or upper end of an interval."""
    return max(max((point.value, *(point.ci or ()))) for point in points)


def bars(
    points: Sequence[tuple[str, Point]], most: float, measure: Measure, width: int, marks: Marks
) -> list[str]:
    """Return a line with a bar for each point under its name; a full bar is `most`."""
    name_width = max(len(name) for name, _ in points)
    room = max(8, width - name_width - 27)
    lines = []
    for name, point in points:
        reach = None
        shown = " " * 16
        if point.ci is not None:
            reach = measure.fill(point.ci[0], most), measure.fill(point.ci[1], most)
            shown = f"{measure.show(point.ci[0]):>7}–{measure.show(point.ci[1]):<8}"
        bar = marks.measure(measure.fill(point.value, most), room, reach)
        lines.append(f"{name:<{name_width}} {bar} {measure.show(point.value):>7} {shown}")
    return lines


def _whiskers(axes: Any, points: Sequence[Point], look: Look, scale: float) -> None:
    for point in points:
        if point.ci is not None:
            axes.vlines(point.at, scale * point.ci[0], scale * point.ci[1], color=look.colour)
