"""SnapKV: the prompt's last queries say which of its cells matter."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from scope_cpp.policies.base import FloatArray, View, option
from scope_cpp.policies.heavy_prefill import WindowPrefill
from scope_cpp.policies.scores.neighbours import LARGEST_KERNEL, POOLINGS, smoothed
from scope_cpp.policies.scores.ordering import in_order
from scope_cpp.policies.select import finite


@dataclass(frozen=True)
class SnapKV(WindowPrefill):
    """α1 heavy hitters by the last `window` queries' attention, pooled, and the window itself.

    Based on SnapKV (https://arxiv.org/abs/2404.14469). Scores are pooled over `kernel`
    neighbours in the text, so that what surrounds a hit stays with it. At the
    ends the neighbours that exist count; the window's own rows are no neighbours.
    """

    name: ClassVar[str] = "snapkv"

    pooling: str = option("avg", "how scores of neighbours are pooled", choices=POOLINGS)
    kernel: int = option(5, "neighbours that are pooled, odd", low=1, high=LARGEST_KERNEL)

    def __post_init__(self) -> None:
        """Check the options; a kernel has a middle."""
        super().__post_init__()
        if self.kernel % 2 == 0:
            raise ValueError(f"kernel={self.kernel}: must be odd")

    def rank(self, view: View) -> FloatArray:
        """Pool the scores over neighbours in the text, (L, H, n)."""
        return in_order(view, self._pooled)

    def _pooled(self, view: View) -> FloatArray:
        prefix = ~view.newest(self.window)
        return smoothed(finite(view.scores), view.pos, self.kernel, self.pooling, prefix)
