"""SCOPE's slide, with cells that the prompt's queries are expected to look up."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from scope_cpp.policies.scope_slide import ScopeSlide
from scope_cpp.policies.scored import preset


@dataclass(frozen=True)
class ScopeForesight(ScopeSlide):
    """As scope-slide, but a cell is worth its attention so far and what will be looked up in it.

    Based on SCOPE (https://arxiv.org/abs/2412.13649): Φd = Ψ_β1(Σ Att + 3β·w·u³) ∪ the last β2
    tokens, with w and u of `scores.foresight`, which are our own, and β the output's cells.
    """

    name: ClassVar[str] = "scope-foresight"

    ahead: int = preset("ahead", 512)
    unlike: float = preset("unlike", 3.0)
