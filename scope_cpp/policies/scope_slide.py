"""SCOPE slide: a history of constant size."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from scope_cpp.policies.base import Step, option
from scope_cpp.policies.scope import Scope


@dataclass(frozen=True)
class ScopeSlide(Scope):
    """SCOPE with β1 heavy hitters from the moment the pool is full.

    Based on SCOPE (https://arxiv.org/abs/2412.13649), strategy "slide": once |Φd| > β1+β2,
    Φd = Ψ_β1(Att_t[α1+α2 : −β2]) ∪ the last β2 tokens. `interval` > 1 selects once for that
    many tokens.
    """

    name: ClassVar[str] = "scope-slide"

    interval: int = option(1, "tokens between selections", low=1)

    def slack_cells(self) -> int:
        """As many as the tokens of an interval."""
        return self.interval

    def history(self, t: int, n_predict: int | None) -> int:
        """β1, always."""
        return self.pools()[0]

    def due(self, step: Step) -> bool:
        """Whenever `interval` cells too many have come together."""
        return step.n_output_cells >= self.output_cells()
