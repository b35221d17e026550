"""PyramidInfer: one choice for the heads of a layer, by recent queries; deeper layers keep fewer.

Based on PyramidInfer (https://arxiv.org/abs/2405.12532), with two differences. The authors skip
the computation of dropped tokens in deeper layers, here every layer computes all of them and
then chooses. Their cosine schedule multiplies a share onto each layer; with 32 layers that leaves
the last one a fifth of the first one's rows. Here the sizes themselves fall as a cosine to a third
of their mean (β = 3), which comes to the same at any number of layers and holds a given mean.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar

from typing_extensions import Self

from scope_cpp.policies.base import BoolArray, FloatArray, View, option
from scope_cpp.policies.heavy_prefill import WindowPrefill
from scope_cpp.policies.pyramid import SHAPES, PyramidPrefill, largest, layer_size, mean_below
from scope_cpp.policies.scored import preset
from scope_cpp.policies.scores.ordering import in_order
from scope_cpp.policies.scores.ranking import mixed
from scope_cpp.policies.select import finite
from scope_cpp.policies.sizes import check_budget, least, sum_of
from scope_cpp.policies.unified import Unified


@dataclass(frozen=True)
class PyramidInferPrefill(PyramidPrefill, WindowPrefill):
    """The prompt's rows with the most attention of its last queries, in the mean over heads.

    The first `sinks` tokens stay, too.
    """

    name: ClassVar[str] = "pyramidinfer"

    beta: int = option(3, "mean divided by the last layer's heavy hitters", low=1)
    shape: str = option("cosine", "how the sizes fall with depth", choices=SHAPES)
    sinks: int = option(4, "first tokens that always stay, among the heavy hitters")

    def rank(self, view: View) -> FloatArray:
        """Mean over the layer's heads; the first tokens before all others."""
        ranked = in_order(view, _layer_mean)
        ranked[view.pos < self.sinks] = 2.0  # shares are at most 1
        return ranked


def _layer_mean(view: View) -> FloatArray:
    return mixed(finite(view.scores), view.pos, 1.0, "layer", "mean")


class _Layer(Unified):
    """One layer's choice."""

    name: ClassVar[str] = "pyramidinfer"


@dataclass(frozen=True)
class PyramidInfer(Unified):
    """One budget for prompt and output in every layer, with fewer heavy hitters in deeper ones.

    `heavy` is the mean over layers; a derived one leaves room for the first layer, which has the
    most and decides the memory. The recent tokens and the first ones are the same everywhere.
    """

    name: ClassVar[str] = "pyramidinfer"
    uneven: ClassVar[bool] = True

    beta: int = option(3, "mean divided by the last layer's heavy hitters", low=1)
    shape: str = option("cosine", "how the sizes fall with depth", choices=SHAPES)
    score: str = preset("score", "window")
    mix: float = preset("mix", 1.0)
    sinks: int = option(4, "first tokens that always stay, among the heavy hitters")
    interval: int = option(16, "tokens between selections", low=1)

    def resolve(self, budget: int | None, n_prompt_cells: int, n_predict: int | None) -> Self:
        """Divide the budget as if every layer were the largest; the mean follows."""
        given = None if self.heavy is None else largest(self.heavy, self.beta)
        minimum = max(n_prompt_cells, least(given, self.recent) + self.interval)
        pool = sum_of(heavy=given, recent=self.recent or 1, interval=self.interval)
        parts = f"prompt {n_prompt_cells}, or the first layer's {pool}"
        check_budget(self.name, budget, minimum, parts, heavy=self.heavy, recent=self.recent)
        most = super(PyramidInfer, replace(self, heavy=given)).resolve(
            budget, n_prompt_cells, n_predict
        )
        mean = mean_below(most.heavy or 0, self.beta) if self.heavy is None else self.heavy
        return replace(most, heavy=mean)

    def select(self, view: View) -> BoolArray:
        """As `Unified`, with the layer's own number of heavy hitters."""
        mean, recent = super()._pool()
        size = mean
        if view.layer is not None:
            most = largest(mean, self.beta)
            size = layer_size(mean, most, self.beta, view.layer, view.n_layers, self.shape)
        options: dict[str, Any] = {item.name: getattr(self, item.name) for item in fields(Unified)}
        return _Layer(**options | {"heavy": size}).select(view)

    def _pool(self) -> tuple[int, int]:
        """Those of the largest layer, which decide when to select and how many cells are held."""
        heavy, recent = super()._pool()
        return largest(heavy, self.beta), recent
