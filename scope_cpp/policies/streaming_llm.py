"""StreamingLLM: attention sinks and recent tokens."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from typing_extensions import Self

from scope_cpp.policies.base import BoolArray, DecodePolicy, Step, View, option
from scope_cpp.policies.select import first_and_last
from scope_cpp.policies.sizes import DEFAULT_POOL, check_budget, sum_of


@dataclass(frozen=True)
class StreamingLLM(DecodePolicy):
    """The first tokens ("sinks") and the most recent ones, over prompt and output alike.

    Based on StreamingLLM (https://arxiv.org/abs/2309.17453), but rows keep their true positions.
    ``sinks=auto`` is what SCOPE's authors ran under this name: the first tokens get all that the
    recent ones leave, which are half of what the prompt leaves, so that the prompt stays.
    """

    name: ClassVar[str] = "streaming-llm"
    ranks_prompt: ClassVar[bool] = True

    sinks: int | None = option(4, "first tokens that always stay; auto: all but the recent ones")
    recent: int | None = option(None, "most recent tokens that stay; derived: the rest", low=1)

    def resolve(self, budget: int | None, n_prompt_cells: int, n_predict: int | None) -> Self:
        """Give the recent tokens what sinks and one cell to decode into leave."""
        sinks = self.sinks or 0
        minimum = max(n_prompt_cells, sinks + (self.recent or 1) + 1)
        given = {"sinks": self.sinks, "recent": self.recent}
        pool = sum_of(sinks=sinks, recent=self.recent or 1)
        parts = f"prompt {n_prompt_cells}, or {pool} + 1 to decode into"
        check_budget(self.name, budget, minimum, parts, **given)
        room = n_prompt_cells + DEFAULT_POOL if budget is None else budget - 1
        if self.sinks is None:
            recent = self.recent or max(1, (room - n_prompt_cells) // 2)
            return replace(self, sinks=max(0, room - recent), recent=recent)
        if self.recent is not None:
            return self
        return replace(self, recent=max(1, room - self.sinks))

    def capacity(self, n_prompt_cells: int, n_predict: int | None) -> int:
        """Sinks, recent tokens and one; at least the prompt, at most prompt and output."""
        held = max(n_prompt_cells, sum(self._pools()) + 1)
        return held if n_predict is None else min(held, n_prompt_cells + n_predict)

    def due(self, step: Step) -> bool:
        """At every step once there is a cell too many."""
        return step.n_cells > sum(self._pools())

    def select(self, view: View) -> BoolArray:
        """Keep the sinks and the latest positions; with little room the sinks give way."""
        sinks, recent = self._pools()
        return first_and_last(view, sinks, min(view.limit, sinks + recent))

    def chunk(self, capacity: int) -> int:
        """As `Policy.chunk`, but no more than leaves room for the sinks."""
        return max(1, min(super().chunk(capacity), capacity - self._pools()[0] - 1))

    def _pools(self) -> tuple[int, int]:
        if self.sinks is None or self.recent is None:
            raise ValueError(f"{self.name}: sinks and recent are not known before resolve()")
        return self.sinks, self.recent
