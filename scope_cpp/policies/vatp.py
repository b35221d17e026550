"""VATP: attention times the size of what it fetches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from scope_cpp.policies.base import option
from scope_cpp.policies.scored import preset
from scope_cpp.policies.unified import Unified


@dataclass(frozen=True)
class VATP(Unified):
    """H2O with scores times the L1 norm of the cell's values, and with sinks.

    Based on VATP (https://arxiv.org/abs/2406.12335): Ψ_heavy(ΣAtt·‖V‖₁) ∪ the last `recent`
    tokens ∪ the first ones, whose values are small and whose attention is not.
    """

    name: ClassVar[str] = "vatp"

    values: float = preset("values", 1.0)
    sinks: int = option(20, "first tokens that always stay, among the heavy hitters")
