"""What the SCOPE strategies share whose history grows with the output."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from scope_cpp.policies.base import option
from scope_cpp.policies.scope import Scope

GROWTHS = ("line", "steps")


@dataclass(frozen=True)
class GrowingScope(Scope):
    """SCOPE with β1(t) heavy hitters after t generated tokens, β1 of them at the longest output.

    ``line`` is the paper's formula. ``steps`` is the authors' code (github.com/Linking-ai/SCOPE):
    a cell every δ = (T−β2) // β1 tokens from the first one on; here never more than β1.
    """

    name: ClassVar[str]

    growth: str = option(
        "line", "how the history grows; steps: as the authors' code", choices=GROWTHS
    )

    def history(self, t: int, n_predict: int | None) -> int:
        """β1(t)."""
        grown = growing_history if self.growth == "line" else stepwise_history
        return grown(t, *self.pools(), n_predict)


def growing_history(t: int, beta1: int, beta2: int, n_predict: int | None) -> int:
    """β1(t) = (t−β2)·β1/(T−β2), rounded down, between 0 and β1.

    Parameters
    ----------
    t
        Tokens generated so far.
    beta1, beta2
        Sizes of the full history and of the recent window.
    n_predict
        Longest output T. Where it is unknown (None), T = 2(β1+β2): the history then reaches its
        full size and stays there, however far `t` goes.
    """
    longest = 2 * (beta1 + beta2) if n_predict is None else n_predict
    if t <= beta2:
        return 0
    if t >= longest:
        return beta1
    return (t - beta2) * beta1 // (longest - beta2)


def stepwise_history(t: int, beta1: int, beta2: int, n_predict: int | None) -> int:
    """⌊t/δ⌋ with δ = (T−β2) // β1, at most β1; parameters as for `growing_history`."""
    longest = 2 * (beta1 + beta2) if n_predict is None else n_predict
    delta = max(1, (longest - beta2) // max(1, beta1))
    return min(beta1, t // delta)
