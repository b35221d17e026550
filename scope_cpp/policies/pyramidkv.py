"""PyramidKV: SnapKV with fewer rows in deeper layers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from scope_cpp.policies.base import option
from scope_cpp.policies.pyramid import PyramidPrefill
from scope_cpp.policies.snapkv import SnapKV


@dataclass(frozen=True)
class PyramidKV(PyramidPrefill, SnapKV):
    """SnapKV's scores, and a number of heavy hitters that falls linearly with depth.

    Based on PyramidKV (https://arxiv.org/abs/2406.02069): the mean of all layers is α1, the last
    layer has α1/β, the first 2·α1 − α1/β; the last `window` tokens observe and stay everywhere.
    """

    name: ClassVar[str] = "pyramidkv"

    window: int = option(8, "last prompt tokens that observe and always stay", low=1)
