"""SCOPE discontinuous: adaptive sizes, selected for only now and then."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from typing_extensions import Self

from scope_cpp.policies.base import Step, option
from scope_cpp.policies.scope_growing import GrowingScope
from scope_cpp.policies.sizes import least, split

SLACK_SHARE = 8
"""Derived slack is at most the output's pool divided by this."""


@dataclass(frozen=True)
class ScopeDiscontinuous(GrowingScope):
    """SCOPE adaptive that selects every ζ = (T−β2)/β1 tokens.

    Based on SCOPE (https://arxiv.org/abs/2412.13649), strategy "discontinuous". In between the
    pool floats up, by at most ζ cells in the paper. Under a hard budget these cells are paid for
    with history, so what may float above β1 + β2 is an amount of its own, `slack`: a selection
    comes after ζ tokens, or as soon as the pool has reached β1 + β2 + slack.

    Derived, slack is ζ itself where that takes no more than an eighth of the output's pool
    (β1 and ζ depend on each other and are solved for together), else the eighth: a T that is
    huge for its pool then costs more frequent selections and no history. Where T is unknown, ζ
    follows a T that starts at 2(β1+β2) and doubles whenever the output reaches it.
    """

    name: ClassVar[str] = "scope-discontinuous"

    slack: int | None = option(
        None, "cells above beta1 + beta2 between selections; derived: up to 1/8 of the pool", low=1
    )

    def slack_cells(self) -> int:
        """`slack`; ValueError before `resolve`."""
        if self.slack is None:
            raise ValueError(f"{self.name}: slack is not known before resolve()")
        return self.slack

    def resolve(self, budget: int | None, n_prompt_cells: int, n_predict: int | None) -> Self:
        """Derive slack, then the pools; see the class and `Scope.resolve`."""
        if self.slack is not None:
            return super().resolve(budget, n_prompt_cells, n_predict)
        pool = None if budget is None else budget - n_prompt_cells
        known = replace(self, slack=self._derive_slack(pool, n_predict))
        return super(ScopeDiscontinuous, known).resolve(budget, n_prompt_cells, n_predict)

    def due(self, step: Step) -> bool:
        """After ζ tokens, or when the slack is used up, unless the whole output fits."""
        if self.output_fits(step.n_predict):
            return False
        if step.n_output_cells >= self.output_cells():
            return True
        beta1, beta2 = self.pools()
        zeta = period(step.n_generated, beta1, beta2, step.n_predict)
        target = beta2 + self.history(step.n_generated, step.n_predict)
        late = step.since >= zeta and step.n_generated >= beta2 + zeta
        return late and step.n_output_cells > target

    def _derive_slack(self, pool: int | None, n_predict: int | None) -> int:
        """Return the least slack that holds ζ, at most the share; `pool` None: default sizes."""
        free = None if pool is None else pool - least(self.beta1, self.beta2)
        whole = sum(split(None, self.beta1, self.beta2)) if pool is None else pool
        most = max(1, whole // SLACK_SHARE if free is None else min(whole // SLACK_SHARE, free))
        if n_predict is None:
            return most
        for slack in range(1, most):
            room = None if pool is None else pool - slack
            beta1, beta2 = split(room, self.beta1, self.beta2)
            if period(0, beta1, beta2, n_predict) <= slack:
                return slack
        return most


def period(t: int, beta1: int, beta2: int, n_predict: int | None) -> int:
    """ζ = (T−β2)/β1, rounded down, at least 1; see `ScopeDiscontinuous` for an unknown T."""
    longest = n_predict
    if longest is None:
        longest = 2 * (beta1 + beta2)
        longest <<= (t // longest).bit_length()
    return max(1, (longest - beta2) // max(1, beta1))
