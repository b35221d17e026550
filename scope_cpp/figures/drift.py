"""Where the heavy hitters lie, step by step: they drift from the prompt into the output.

At some steps of a generation with the full cache, the share `top` of the positions that got the
most attention is marked in each KV head. SCOPE (arXiv 2412.13649) argues from such a figure, of the
top 15 %, that prompt and output need pools of their own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from scope_cpp.engine.generate import Generation
from scope_cpp.errors import UsageError
from scope_cpp.figures import bins, style
from scope_cpp.figures.figure import Figure
from scope_cpp.figures.marks import Marks
from scope_cpp.figures.observe import Evenly, observe
from scope_cpp.figures.table import Table, Value

QUERIES = 32  # whose attention is averaged: one alone is noisy
_MOST_STEPS = 8
_BINS = 360


@dataclass(frozen=True, eq=False)
class Drift(Figure):
    """The heavy hitters of several steps and layers.

    Attributes
    ----------
    n_prompt
        Tokens of the prompt.
    top
        Share of the positions that counts as heavy hitters.
    steps
        Tokens of the output so far, ascending.
    layers
        Layers of the KV cache.
    heavy
        float64 (layer, step, position): share of the KV heads in which a position is one of the
        heavy hitters; NaN where there is no position yet.
    """

    run: str
    n_prompt: int
    top: float
    steps: tuple[int, ...]
    layers: tuple[int, ...]
    heavy: NDArray[np.float64]

    name: ClassVar[str] = "drift"

    @property
    def title(self) -> str:
        """Names the share."""
        return f"Positions that get the top {self.top:.0%} of the attention, by output length"

    @property
    def size(self) -> tuple[float, float]:
        """A panel for each layer."""
        return 8.0, 1.1 + len(self.layers) * (0.55 + 0.17 * len(self.steps))

    def in_prompt(self) -> NDArray[np.float64]:
        """Share of the heavy hitters that lie in the prompt: (layer, step)."""
        part = np.nansum(self.heavy[:, :, : self.n_prompt], axis=2)
        return np.asarray(part / np.nansum(self.heavy, axis=2), np.float64)

    def of_prompt(self) -> NDArray[np.float64]:
        """Share of the positions that lie in the prompt: (step,)."""
        return self.n_prompt / (self.n_prompt + np.asarray(self.steps, np.float64))

    def table(self) -> Table:
        """Each position that is a heavy hitter in some head."""
        rows: list[tuple[Value, ...]] = []
        for i, layer in enumerate(self.layers):
            for j, step in enumerate(self.steps):
                shares = self.heavy[i, j]
                for position in np.flatnonzero(shares > 0):
                    part = "prompt" if position < self.n_prompt else "output"
                    rows.append((layer, step, int(position), part, float(shares[position])))
        return Table(("layer", "step", "position", "part", "share_of_heads"), tuple(rows))

    def draw(self, canvas: Any) -> None:
        """Draw a strip for each step, and beside it the share that lies in the prompt."""
        n = len(self.layers)
        grid = canvas.add_gridspec(n + 1, 2, width_ratios=[4, 1], height_ratios=[0.1] + [1] * n)
        strips = shares = None
        for i, (layer, inside) in enumerate(zip(self.layers, self.in_prompt(), strict=True)):
            strips = canvas.add_subplot(grid[i + 1, 0], sharex=strips)
            shares = canvas.add_subplot(grid[i + 1, 1], sharex=shares, sharey=strips)
            image = self._strips(strips, self.heavy[i])
            strips.set_ylabel(f"layer {layer}\noutput tokens")
            self._shares(shares, inside)
            for axes in (strips, shares):
                axes.tick_params(labelbottom=i == n - 1)
        if strips is None or shares is None:
            return
        strips.set_xlabel("position in the sequence (tokens); line: end of the prompt")
        shares.set_xlabel("in the prompt (%)")
        bar = canvas.colorbar(image, cax=canvas.add_subplot(grid[0, 0]), orientation="horizontal")
        bar.set_label(f"share of heads that have the position among their top {self.top:.0%}")
        bar.ax.xaxis.set_label_position("top")
        bar.outline.set_visible(False)
        key = canvas.add_subplot(grid[0, 1])
        key.axis("off")
        key.legend(*shares.get_legend_handles_labels(), loc="center", frameon=False)

    def text(self, width: int, marks: Marks) -> str:
        """Return a line for each step of each layer."""
        before, after = 8, 14
        columns = max(10, width - before - after)
        per = bins.width_of(self.heavy.shape[2], columns)
        edge = round(self.n_prompt / per)
        lines = []
        ruler = "prompt".ljust(edge) if edge > 6 else " " * edge
        for i, layer in enumerate(self.layers):
            lines.append(f"layer {layer}")
            lines.append(f"{'step':>6}  {ruler}{'|output':<{columns - edge}}  in the prompt")
            for step, shares, inside in zip(
                self.steps, bins.means(self.heavy[i], per), self.in_prompt()[i], strict=True
            ):
                strip = marks.spark(None if np.isnan(share) else share for share in shares)
                lines.append(f"{step:>6}  {strip:<{columns}}  {inside:>6.0%}")
            lines.append("")
        lines.append(
            f"{marks.levels[-1]} all heads have these {per} positions in their top "
            f"{self.top:.0%}, {marks.levels[0]} none has"
        )
        return "\n".join(lines)

    def _strips(self, axes: Any, heavy: NDArray[np.float64]) -> Any:
        per = bins.width_of(heavy.shape[1], _BINS)
        shown = bins.means(heavy, per)
        image = axes.imshow(
            shown, aspect="auto", interpolation="nearest", cmap=style.shades(), vmin=0, vmax=1,
            extent=(0, shown.shape[1] * per, len(self.steps) - 0.5, -0.5),
        )  # fmt: skip
        axes.set_xlim(0, heavy.shape[1])
        axes.set_yticks(range(len(self.steps)), [str(step) for step in self.steps])
        axes.hlines(np.arange(0.5, len(self.steps) - 1), 0, heavy.shape[1], "white", linewidth=1.5)
        axes.axvline(self.n_prompt, color=style.COLOURS[4], linewidth=1.6)
        axes.tick_params(length=0)
        for side in ("left", "bottom"):
            axes.spines[side].set_visible(False)
        return image

    def _shares(self, axes: Any, inside: NDArray[np.float64]) -> None:
        rows = np.arange(len(self.steps))
        axes.barh(rows, 100 * inside, height=0.7, color=style.COLOURS[1], label="heavy hitters")
        axes.plot(
            100 * self.of_prompt(), rows, color="black", marker="|", markersize=9, linestyle="",
            markeredgewidth=1.6, label="all positions",
        )  # fmt: skip
        axes.set_xlim(0, 100)
        axes.tick_params(labelleft=False, length=0)


def drift(
    generation: Generation, run: str, top: float, layers: Sequence[int] | None = None
) -> Drift:
    """Run a generation with the full cache to its end.

    Parameters
    ----------
    generation
        Not iterated over yet, its cache not bounded.
    run
        What is run, for the title.
    top
        Share of the positions that counts as heavy hitters, between 0 and 1.
    layers
        ``None``: the first, the middle and the last.

    Raises
    ------
    UsageError
        If the model has no such layer, or the cache is bounded.
    ScopeError
        If the output is too short.
    """
    if generation.cache.bounded:
        raise UsageError("the drift of heavy hitters is seen with the full cache: --policy full")
    kept: Evenly[NDArray[np.float64]] = Evenly(_MOST_STEPS)
    chosen: tuple[int, ...] = ()
    for snapshot in observe(generation, QUERIES, kept.wants):
        chosen = chosen or choose_layers(layers, snapshot.weights.shape[0])
        kept.add(snapshot.step, heavy_hitters(snapshot.weights[list(chosen)], top))
    taken = list(kept.by_step.values())
    heavy = np.full((len(chosen), len(taken), taken[-1].shape[1]), np.nan)
    for i, shares in enumerate(taken):
        heavy[:, i, : shares.shape[1]] = shares
    return Drift(run, generation.cache.n_prompt, top, tuple(kept.by_step), chosen, heavy)


def heavy_hitters(weights: NDArray[np.float32], top: float) -> NDArray[np.float64]:
    """Return the share of heads in which a position is a heavy hitter.

    Parameters
    ----------
    weights : (L, H, n)
        Attention by position.
    top
        Share of the `n` positions that are heavy hitters, rounded, at least one.

    Returns
    -------
    ndarray of float64, (L, n)
    """
    n = weights.shape[2]
    most = max(1, round(top * n))
    order = np.argsort(-weights, axis=2, kind="stable")[:, :, :most]
    marked = np.zeros(weights.shape, np.float64)
    np.put_along_axis(marked, order, 1.0, axis=2)
    return np.asarray(marked.mean(axis=1), np.float64)


def choose_layers(asked: Sequence[int] | None, n_layer: int) -> tuple[int, ...]:
    """Return the layers to show, ascending.

    Raises
    ------
    UsageError
        If there is no such layer.
    """
    if asked is None:
        return tuple(sorted({0, n_layer // 2, n_layer - 1}))
    wrong = [layer for layer in asked if not 0 <= layer < n_layer]
    if wrong:
        raise UsageError(f"there is no layer {wrong[0]}: layers are 0 to {n_layer - 1}")
    return tuple(sorted(set(asked)))
