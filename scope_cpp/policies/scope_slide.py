"""SCOPE slide: a history of constant size."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from typing_extensions import Self

from scope_cpp.policies.base import Step, option
from scope_cpp.policies.scope import Scope
from scope_cpp.policies.sizes import split

INTERVAL_SHARE, MOST_INTERVAL = 32, 32
"""A derived interval is the output's pool divided by the one, at most the other."""


@dataclass(frozen=True)
class ScopeSlide(Scope):
    """SCOPE with β1 heavy hitters from the moment the pool is full.

    Based on SCOPE (https://arxiv.org/abs/2412.13649), strategy "slide": once |Φd| > β1+β2,
    Φd = Ψ_β1(Att_t[α1+α2 : −β2]) ∪ the last β2 tokens. `interval` > 1 selects once for that
    many tokens; ``auto`` derives it from the pool: choosing seldom costs little then, in time and
    in cells.
    """

    name: ClassVar[str] = "scope-slide"

    interval: int | None = option(
        1, "tokens between selections; auto: 1/32 of the output's pool, at most 32", low=1
    )

    def resolve(self, budget: int | None, n_prompt_cells: int, n_predict: int | None) -> Self:
        """Derive the interval if it is ``auto``, then the pools; see `Scope.resolve`."""
        if self.interval is not None:
            return super().resolve(budget, n_prompt_cells, n_predict)
        pool = sum(split(None, self.beta1, self.beta2))
        if budget is not None:
            pool = budget - n_prompt_cells
        known = replace(self, interval=max(1, min(pool // INTERVAL_SHARE, MOST_INTERVAL)))
        return super(ScopeSlide, known).resolve(budget, n_prompt_cells, n_predict)

    def slack_cells(self) -> int:
        """As many as the tokens of an interval; ValueError before `resolve`."""
        if self.interval is None:
            raise ValueError(f"{self.name}: interval is not known before resolve()")
        return self.interval

    def history(self, t: int, n_predict: int | None) -> int:
        """β1, always."""
        return self.pools()[0]

    def due(self, step: Step) -> bool:
        """Whenever `interval` cells too many have come together."""
        return step.n_output_cells >= self.output_cells()
