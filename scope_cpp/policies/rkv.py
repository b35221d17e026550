"""R-KV: important cells that do not repeat others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from scope_cpp.policies.scored import preset
from scope_cpp.policies.unified import Unified


@dataclass(frozen=True)
class RKV(Unified):
    """The cells with much attention by the last queries whose keys are unlike the others'.

    Based on R-KV (https://arxiv.org/abs/2505.24133): Ψ(λI − (1−λ)R) ∪ the last `recent` tokens.
    I is the attention of the last `window` queries, as a share of the head's, pooled by maximum
    over `smooth` neighbours; R the softmax of the mean cosine of keys (`scores.redundancy`);
    λ = 0.1 = 1 − `redundancy`. The authors select every 128 tokens.
    """

    name: ClassVar[str] = "r-kv"
    usual_recent: ClassVar[int | None] = 8
    usual_interval: ClassVar[int] = 16

    score: str = preset("score", "window")
    window: int = preset("window", 8)
    smooth: int = preset("smooth", 7)
    redundancy: float = preset("redundancy", 0.9)
