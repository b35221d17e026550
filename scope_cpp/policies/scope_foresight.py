"""SCOPE's slide, with cells that the prompt's queries are expected to look up."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from scope_cpp.policies.scope_slide import ScopeSlide
from scope_cpp.policies.scored import preset


@dataclass(frozen=True)
class ScopeForesight(ScopeSlide):
    """As scope-slide, but a cell is worth its attention so far and what will be looked up in it.

    Based on SCOPE (https://arxiv.org/abs/2412.13649): Φd = Ψ_β1(Σ Att + 100·foresight) ∪ the
    last β2 tokens, with the foresight of `scores.foresight`, which is our own.
    """

    name: ClassVar[str] = "scope-foresight"

    ahead: int = preset("ahead", 128)
    ahead_weight: float = preset("ahead_weight", 100.0)
