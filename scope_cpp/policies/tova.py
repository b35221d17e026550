"""TOVA: the cell that the current query needs least goes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from scope_cpp.policies.scored import preset
from scope_cpp.policies.unified import Unified


@dataclass(frozen=True)
class Tova(Unified):
    """The cells with the most attention by the current query, averaged over a layer's heads.

    Based on TOVA (https://arxiv.org/abs/2401.06104): Ψ(mean over heads of Att_t), over prompt
    and output alike, without a recent window. The newest cell always stays.
    """

    name: ClassVar[str] = "tova"
    usual_recent: ClassVar[int | None] = 1

    score: str = preset("score", "last")
    mix: float = preset("mix", 1.0)
