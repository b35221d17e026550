"""SnapKV: the prompt's last queries say which of its cells matter."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from scope_cpp.policies.base import BoolArray, FloatArray, View, option
from scope_cpp.policies.heavy_prefill import HeavyPrefill
from scope_cpp.policies.select import FINITE, finite

POOLINGS = ("avg", "max")


@dataclass(frozen=True)
class SnapKV(HeavyPrefill):
    """α1 heavy hitters by the last `window` queries' attention, pooled, and the window itself.

    Based on SnapKV (https://arxiv.org/abs/2404.14469). Scores are pooled over `kernel`
    neighbours in the order of positions, so that what surrounds a hit stays with it. At the
    ends the neighbours that exist count; the window's own rows are no neighbours.
    """

    name: ClassVar[str] = "snapkv"

    window: int = option(32, "last prompt tokens that observe and always stay", low=1)
    pooling: str = option("avg", "how scores of neighbours are pooled", choices=POOLINGS)
    kernel: int = option(5, "neighbours that are pooled, odd", low=1)

    def __post_init__(self) -> None:
        """Check the options; a kernel has a middle."""
        super().__post_init__()
        if self.kernel % 2 == 0:
            raise ValueError(f"kernel={self.kernel}: must be odd")

    def last(self) -> int:
        """As many as the window observes with."""
        return self.window

    def n_queries(self, since: int) -> int:
        """As many as the window has, however long the prompt."""
        return self.window

    def fold(self, acc: FloatArray, observed: FloatArray, n: int) -> FloatArray:
        """Only the newest observation counts; see `Policy.fold`."""
        return observed

    def rank(self, view: View) -> FloatArray:
        """Pool the scores over neighbours by position, (L, H, n)."""
        order = np.argsort(view.pos, axis=-1)
        scores = np.take_along_axis(finite(view.scores), order, axis=-1)
        window = np.take_along_axis(view.newest(self.window), order, axis=-1)
        pooled = _pool(scores, ~window, self.kernel, self.pooling)
        ranked = np.empty_like(pooled)
        np.put_along_axis(ranked, order, pooled, axis=-1)
        return ranked


def _pool(scores: FloatArray, valid: BoolArray, kernel: int, pooling: str) -> FloatArray:
    """Mean or maximum of the valid values within kernel // 2 of each place of the last axis."""
    reach = kernel // 2
    pad = ((0, 0), (0, 0), (reach, reach))
    n = scores.shape[-1]
    fill = -FINITE if pooling == "max" else 0.0
    values = np.pad(np.where(valid, scores.astype(np.float64), fill), pad, constant_values=fill)
    shifted = [values[..., i : i + n] for i in range(kernel)]
    if pooling == "max":
        highest: FloatArray = np.maximum.reduce(shifted).astype(np.float32)
        return highest
    padded = np.pad(valid, pad)
    count = sum(padded[..., i : i + n].astype(np.int32) for i in range(kernel))
    mean: FloatArray = (sum(shifted) / np.maximum(count, 1)).astype(np.float32)
    return mean
