"""Attention of one layer and KV head over a bounded generation, and which cells it still has."""

from __future__ import annotations

import math
from dataclasses import dataclass
from importlib import import_module
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from scope_cpp.engine.generate import Generation
from scope_cpp.errors import UsageError
from scope_cpp.figures import bins, style
from scope_cpp.figures.figure import Figure
from scope_cpp.figures.marks import Marks
from scope_cpp.figures.observe import Rows, observe
from scope_cpp.figures.table import Table, Value

_MOST_ROWS = 160
_BINS = 500
_LINES = 24
_HIT = 0.05  # attention that a terminal shows
LEAST = 1e-4  # attention below it is not drawn


@dataclass(frozen=True, eq=False)
class Heatmap(Figure):
    """Attention by step and position.

    Attributes
    ----------
    layer, head
        Of the KV cache.
    n_prompt
        Tokens of the prompt.
    steps
        Tokens of the output at the end of each row, ascending.
    attention
        float64 (row, position): weights of the newest query, the mean over the steps of a row and
        the query heads of the KV head. NaN where there is no position yet.
    kept
        bool (row, position): whether the head had the position at any of these steps.
    """

    run: str
    layer: int
    head: int
    n_prompt: int
    steps: tuple[int, ...]
    attention: NDArray[np.float64]
    kept: NDArray[np.bool_]

    name: ClassVar[str] = "heatmap"

    @property
    def title(self) -> str:
        """Names the head."""
        return f"Attention and the cells that were kept: layer {self.layer}, KV head {self.head}"

    @property
    def size(self) -> tuple[float, float]:
        """Wide enough that a bin has a pixel of its own."""
        return 8.0, 5.0

    def table(self) -> Table:
        """A line for each row and bin of positions of which some are kept; three digits."""
        per = bins.width_of(self.attention.shape[1], _BINS)
        attention, _ = self._binned(per)
        rows: list[tuple[Value, ...]] = []
        for i, step in enumerate(self.steps):
            n = self.n_prompt + step
            for first in range(0, n, per):
                cells = int(self.kept[i, first : first + per].sum())
                if cells:
                    last, weight = min(first + per, n) - 1, float(attention[i, first // per])
                    rows.append((step, first, last, cells, float(f"{weight:.3g}")))
        return Table(("step", "first_position", "last_position", "cells", "attention"), tuple(rows))

    def draw(self, canvas: Any) -> None:
        """Draw the attention on what is kept; what was given up is grey."""
        colors = import_module("matplotlib.colors")
        per = bins.width_of(self.attention.shape[1], _BINS)
        attention, shares = self._binned(per)
        stride = self.steps[0]
        extent = (0, attention.shape[1] * per, stride * len(self.steps), 0)
        axes = canvas.subplots()
        same = {"aspect": "auto", "interpolation": "nearest", "extent": extent}
        axes.imshow(shares, cmap=style.kept_shades(), vmin=0, vmax=1, **same)
        image = axes.imshow(
            np.where(attention >= LEAST, attention, np.nan),
            cmap=style.shades(), norm=colors.LogNorm(LEAST, 1), **same,
        )  # fmt: skip
        axes.axvline(self.n_prompt, color=style.COLOURS[4], linewidth=1.4)
        axes.set(xlim=(0, self.attention.shape[1]), ylim=(self.steps[-1], 0))
        axes.set_xlabel("position in the sequence (tokens); line: end of the prompt")
        axes.set_ylabel("output tokens")
        patch = import_module("matplotlib.patches").Patch
        canvas.legend(
            handles=[
                patch(facecolor=style.KEPT, label="kept"),
                patch(facecolor=style.GONE, label="given up"),
                patch(facecolor="white", edgecolor=style.GONE, label="not written yet"),
            ],
            loc="outside lower right", ncols=3, frameon=False,
        )  # fmt: skip
        bar = canvas.colorbar(image, ax=axes, pad=0.01, aspect=40)
        bar.set_label(f"share of the attention, mean of {_steps(stride)}")
        bar.outline.set_visible(False)

    def text(self, width: int, marks: Marks) -> str:
        """Return a line for each of some steps."""
        per = bins.width_of(self.attention.shape[1], max(10, width - 8))
        attention, shares = self._binned(per)
        lines = [f"{'output':>6}  {'prompt'.ljust(self.n_prompt // per)}|output"]
        chunk = math.ceil(len(self.steps) / _LINES)
        for first in range(0, len(self.steps), chunk):
            last = min(first + chunk, len(self.steps)) - 1
            weights = np.nan_to_num(attention[first : last + 1]).mean(axis=0)
            cells = (
                marks.hit if weight >= _HIT else marks.part(share)
                for weight, share in zip(weights, shares[last], strict=True)
                if not np.isnan(share)
            )
            lines.append(f"{self.steps[last]:>6}  {''.join(cells)}")
        lines += ["", f"a column is {per} positions; kept: {marks.parts()}"]
        lines.append(f"{marks.hit} at least {_HIT:.0%} of the attention")
        return "\n".join(lines)

    def _binned(self, per: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Attention on each bin, and share of its positions that are kept; NaN before there are."""
        written = bins.summed((~np.isnan(self.attention)).astype(np.float64), per)
        weights = bins.summed(np.nan_to_num(self.attention), per)
        cells = bins.summed(self.kept.astype(np.float64), per)
        some = np.where(written > 0, written, np.nan)
        return np.where(written > 0, weights, np.nan), cells / some


def heatmap(generation: Generation, run: str, layer: int | None, head: int) -> Heatmap:
    """Run a generation to its end.

    Parameters
    ----------
    generation
        Not iterated over yet.
    run
        What is run, for the title.
    layer, head
        Of the KV cache; ``None``: the middle layer.

    Raises
    ------
    UsageError
        If the model has no such layer or head.
    ScopeError
        If the output is too short.
    """
    rows = Rows(_MOST_ROWS)
    for snapshot in observe(generation, 1, lambda step: True):
        n_layer, n_head = snapshot.weights.shape[:2]
        layer = find(layer, head, n_layer, n_head)
        rows.add(generation.cache.n_past, snapshot.pos[layer, head], snapshot.weights[layer, head])
    n_prompt = generation.cache.n_prompt
    attention, kept = rows.arrays()
    steps = tuple(row.n_past - n_prompt for row in rows.rows)
    return Heatmap(run, layer or 0, head, n_prompt, steps, attention, kept)


def find(layer: int | None, head: int, n_layer: int, n_head: int) -> int:
    """Return the layer, the middle one if none is named.

    Raises
    ------
    UsageError
        If there is no such layer or head.
    """
    layer = n_layer // 2 if layer is None else layer
    if not 0 <= layer < n_layer:
        raise UsageError(f"there is no layer {layer}: layers are 0 to {n_layer - 1}")
    if not 0 <= head < n_head:
        raise UsageError(f"there is no KV head {head}: KV heads are 0 to {n_head - 1}")
    return layer


def _steps(n: int) -> str:
    return "1 step" if n == 1 else f"{n} steps"
