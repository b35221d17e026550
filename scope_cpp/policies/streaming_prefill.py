"""StreamingLLM for the prompt: its first and its last tokens."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
from typing_extensions import Self

from scope_cpp.policies.base import FloatArray, View, option
from scope_cpp.policies.heavy_prefill import HeavyPrefill, derived_size


@dataclass(frozen=True)
class StreamingLLMPrefill(HeavyPrefill):
    """The first α1 tokens and the last α2 ones.

    Based on StreamingLLM (https://arxiv.org/abs/2309.17453), which keeps 4 first tokens
    (``alpha1=4``). Derived, the two share the prompt's pool equally, as in SCOPE's experiments.
    """

    name: ClassVar[str] = "streaming-llm"
    needs_scores: ClassVar[bool] = False

    alpha2: int | None = option(None, "last prompt tokens; derived: the rest, or half", low=1)

    def last(self) -> int:
        """α2; ValueError before `resolve`."""
        if self.alpha2 is None:
            raise ValueError(f"{self.name}: alpha2 is not known before resolve()")
        return self.alpha2

    def resolve(self, budget: int | None, n_prompt: int) -> Self:
        """Derive α2, then α1; see `HeavyPrefill.resolve`."""
        if self.alpha2 is not None:
            return super().resolve(budget, n_prompt)
        size = derived_size(budget, n_prompt)
        rest = size // 2 if self.alpha1 is None else size - self.alpha1
        known = replace(self, alpha2=max(1, rest))
        return super(StreamingLLMPrefill, known).resolve(budget, n_prompt)

    def rank(self, view: View) -> FloatArray:
        """The earlier the better."""
        return -view.pos.astype(np.float32)
