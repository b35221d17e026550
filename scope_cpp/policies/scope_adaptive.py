"""SCOPE adaptive: a history that grows with the output."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from scope_cpp.policies.base import Step
from scope_cpp.policies.scope_growing import GrowingScope


@dataclass(frozen=True)
class ScopeAdaptive(GrowingScope):
    """SCOPE whose history grows linearly to β1 at the longest output T.

    Based on SCOPE (https://arxiv.org/abs/2412.13649), strategy "adaptive":
    |Φd| = β2 + β1(t) with β1(t) = (t−β2)·β1/(T−β2), held at every step. For an unknown T see
    `growing_history`.
    """

    name: ClassVar[str] = "scope-adaptive"

    def slack_cells(self) -> int:
        """One: a token is in the pool before the selection that it makes due."""
        return 1

    def due(self, step: Step) -> bool:
        """At every step with a cell more than β2 + β1(t), unless the whole output fits."""
        if self.output_fits(step.n_predict):
            return False
        target = self.pools()[1] + self.history(step.n_generated, step.n_predict)
        return step.n_output_cells > target
