"""H2O: heavy hitters and recent tokens under one budget."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from scope_cpp.policies.unified import Unified


@dataclass(frozen=True)
class H2O(Unified):
    """The cells with the most attention and the most recent ones, over prompt and output alike.

    Based on H2O (https://arxiv.org/abs/2306.14048): Ψ_heavy(ΣAtt[: −recent]) ∪ the last
    `recent` tokens.
    """

    name: ClassVar[str] = "h2o"
