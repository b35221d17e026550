"""H2O for the prompt: the cells with the most attention over all of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from scope_cpp.policies.base import FloatArray, option
from scope_cpp.policies.heavy_prefill import HeavyPrefill


@dataclass(frozen=True)
class H2OPrefill(HeavyPrefill):
    """α1 heavy hitters by the attention summed over all prompt queries, and the last α2 tokens.

    Based on H2O (https://arxiv.org/abs/2306.14048), with α2 = 8 as SCOPE sets it.
    """

    name: ClassVar[str] = "h2o"

    alpha2: int = option(8, "last prompt tokens that always stay", low=1)

    def last(self) -> int:
        """α2."""
        return self.alpha2

    def n_queries(self, since: int) -> int:
        """All queries since the last fold."""
        return since

    def fold(self, acc: FloatArray, observed: FloatArray, n: int) -> FloatArray:
        """Sum up; see `Policy.fold`."""
        return acc + observed
