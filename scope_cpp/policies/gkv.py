"""G-KV: the highest share of attention that a cell ever had, fading."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from scope_cpp.policies.scored import preset
from scope_cpp.policies.unified import Unified


@dataclass(frozen=True)
class GKV(Unified):
    """The cells with the highest global score: F = max(decay^n·F, w / max w).

    Based on G-KV (https://arxiv.org/abs/2512.00504), where F fades by α = 0.8 every 128 tokens;
    the default decay is that per token. w is the attention of the last `window` queries, n
    their number. The maximum is that of all cells of the head; the paper leaves the window out.
    """

    name: ClassVar[str] = "g-kv"
    usual_recent: ClassVar[int | None] = 16
    usual_interval: ClassVar[int] = 16

    score: str = preset("score", "global")
    decay: float = preset("decay", 0.99826)
