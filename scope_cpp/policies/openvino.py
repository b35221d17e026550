"""OpenVINO GenAI's cache eviction: start area, recent area, and spans between them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from scope_cpp.policies.base import option
from scope_cpp.policies.scored import preset
from scope_cpp.policies.unified import Unified


@dataclass(frozen=True)
class OpenVINO(Unified):
    """Spans of tokens with the most attention per lifetime, averaged over a layer's heads.

    Based on OpenVINO GenAI's cache eviction (https://docs.openvino.ai, CacheEvictionConfig) with
    NORM_SUM: Σ over a span of ΣAtt / lifetime. Their sizes are 32 for the start area, 64 for the
    recent one, and blocks of 32; ``lifetime=0`` is their SUM. They pool every query's weights
    over the 7 tokens that follow before summing, here a span may lose single rows.
    """

    name: ClassVar[str] = "openvino"
    usual_recent: ClassVar[int | None] = 64
    usual_interval: ClassVar[int] = 32

    lifetime: float = preset("lifetime", 1.0)
    mix: float = preset("mix", 1.0)
    span: int = preset("span", 32)
    sinks: int = option(32, "first tokens that always stay; the start area")
