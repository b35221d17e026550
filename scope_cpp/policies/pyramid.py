"""Budgets of single layers that shrink with depth, by integer rules."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar

from typing_extensions import Self

from scope_cpp.policies.base import BoolArray, View, option
from scope_cpp.policies.heavy_prefill import HeavyPrefill, derived_size
from scope_cpp.policies.select import keep_best
from scope_cpp.policies.sizes import check_budget

SHAPES = ("linear", "cosine")


def largest(mean: int, beta: int) -> int:
    """Rows of the first layer, the largest: 2·mean − mean/β, where the last one has mean/β.

    This is PyramidKV's rule (https://arxiv.org/abs/2406.02069); β = 1 gives all layers the mean.
    """
    return 2 * mean - mean // beta


def mean_below(most: int, beta: int) -> int:
    """Highest mean with which no layer has more than `most` rows."""
    mean = (most * beta + beta - 1) // (2 * beta - 1)
    while largest(mean, beta) > most:
        mean -= 1
    return mean


def layer_size(
    mean: int, longest: int, beta: int, layer: int, n_layers: int, shape: str = "linear"
) -> int:
    """Rows of a layer; those of all layers have exactly the mean.

    Parameters
    ----------
    mean
        Mean over the layers.
    longest
        Rows that there are. As in PyramidKV, what the first layers can't use goes to the last.
    beta
        See `largest`; at least 1.
    layer, n_layers
        Which layer of how many, from 0.
    shape
        ``"linear"`` in depth, or half a period of a ``"cosine"``.
    """
    if mean >= longest:
        return longest
    step = min(largest(mean, beta), longest) - mean
    mirrored = n_layers - 1 - layer
    if layer > mirrored:  # as far below the mean as its counterpart is above
        return 2 * mean - layer_size(mean, longest, beta, mirrored, n_layers, shape)
    depth = layer / (n_layers - 1) if n_layers > 1 else 0.5
    above = 1 - 2 * depth if shape == "linear" else math.cos(math.pi * depth)
    return mean + math.floor(step * above + 1e-9)


@dataclass(frozen=True)
class PyramidPrefill(HeavyPrefill):
    """A prompt's pool whose heavy hitters are fewer in deeper layers: α1 is their mean.

    All layers share llama.cpp's cells, so that memory follows the largest layer. What the others
    do not keep is not attended to. A derived α1 gives the first layer, which has nearly twice the
    mean, the size that other prefill policies give all; a prompt that is no longer stays whole.
    """

    uneven: ClassVar[bool] = True

    beta: int = option(20, "mean divided by the last layer's heavy hitters", low=1)
    shape: str = option("linear", "how the sizes fall with depth", choices=SHAPES)

    def resolve(self, budget: int | None, n_prompt: int) -> Self:
        """Derive α1; see the class."""
        first = largest(self.alpha1 or 0, self.beta)
        parts = f"{first} in the first layer + {self.last()} last prompt tokens + 1 to decode into"
        check_budget(
            self.name, budget, min(n_prompt, first + self.last()) + 1, parts, alpha1=self.alpha1
        )
        if self.alpha1 is not None:
            return self
        size = derived_size(budget, n_prompt)
        most = max(0, size - self.last())
        return replace(self, alpha1=most if size >= n_prompt else mean_below(most, self.beta))

    def cells(self, n_prompt: int) -> int:
        """Cells of the largest layer."""
        return min(n_prompt, largest(self._pool() - self.last(), self.beta) + self.last())

    def rows(self, n_prompt: int) -> int:
        """The mean, with the last tokens."""
        return min(n_prompt, self._pool())

    def keeps_all(self, n_prompt: int) -> bool:
        """Whether the mean is enough for the whole prompt."""
        return self._pool() >= n_prompt

    def select(self, view: View, final: bool) -> BoolArray:
        """Keep the last tokens and, at the end, the layer's own number of heavy hitters."""
        if not final:
            return super().select(view, final)
        mean, longest = self._pool() - self.last(), max(0, view.n_past - self.last())
        size = min(mean, longest)
        if view.layer is not None:
            size = layer_size(mean, longest, self.beta, view.layer, view.n_layers, self.shape)
        keep = max(1, min(view.limit, size + self.last()))
        safe = view.newest(min(keep, self.last()))
        return keep_best(view, self.rank(view), safe, keep)

    def warnings(self) -> tuple[str, ...]:
        """Warn that part of the prompt is lost, and say what the memory follows."""
        return (
            *super().warnings(),
            f"prefill {self.name} gives deeper layers fewer rows, but all layers share the cells:"
            " memory follows the largest layer, nearly twice the mean",
        )
