"""StreamingLLM for the prompt: its first and its last tokens."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from typing_extensions import Self

from scope_cpp.policies.base import BoolArray, View, option
from scope_cpp.policies.heavy_prefill import HeavyPrefill, derived_size
from scope_cpp.policies.select import first_and_last


@dataclass(frozen=True)
class StreamingLLMPrefill(HeavyPrefill):
    """The first α1 tokens and the last α2 ones.

    Based on StreamingLLM (https://arxiv.org/abs/2309.17453), which keeps 4 first tokens
    (``alpha1=4``). Derived, the two share the prompt's pool equally, as in SCOPE's experiments.
    However long the prompt, exactly these tokens stay: while it is read, its first ones are never
    given up, and the latest ones fill what the chunk that is read next leaves of the capacity.
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

    def select(self, view: View, final: bool) -> BoolArray:
        """Keep the first α1 tokens and the latest others; half of each before `resolve`."""
        keep = min(view.limit, self._pool()) if final else view.limit
        return first_and_last(view, keep // 2 if self.alpha1 is None else self.alpha1, keep)

    def chunk(self, capacity: int) -> int:
        """As `Policy.chunk`, but no more than leaves room for the first tokens."""
        return max(1, min(super().chunk(capacity), capacity - (self.alpha1 or 0)))
