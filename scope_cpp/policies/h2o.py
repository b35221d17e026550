"""H2O: heavy hitters and recent tokens under one budget."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from typing_extensions import Self

from scope_cpp.policies.base import BoolArray, ScoredDecodePolicy, Step, View, option
from scope_cpp.policies.select import keep_best
from scope_cpp.policies.sizes import DEFAULT_POOL, check_budget, least, split


@dataclass(frozen=True)
class H2O(ScoredDecodePolicy):
    """The cells with the most attention and the most recent ones, over prompt and output alike.

    Based on H2O (https://arxiv.org/abs/2306.14048): Ψ_heavy(ΣAtt[: −recent]) ∪ the last
    `recent` tokens.
    """

    name: ClassVar[str] = "h2o"
    reads_prompt: ClassVar[bool] = True
    ranks_prompt: ClassVar[bool] = True

    heavy: int | None = option(None, "heavy hitters; derived: half of the budget")
    recent: int | None = option(None, "most recent tokens; derived: half of the budget", low=1)
    interval: int = option(1, "tokens between selections", low=1)

    def resolve(self, budget: int | None, n_prompt_cells: int, n_predict: int | None) -> Self:
        """Divide the budget, less `interval`, into halves."""
        minimum = max(n_prompt_cells, least(self.heavy, self.recent) + self.interval)
        parts = f"prompt {n_prompt_cells}, or heavy + recent + interval {self.interval}"
        check_budget(self.name, budget, minimum, parts)
        room = None if budget is None else budget - self.interval
        heavy, recent = split(room, self.heavy, self.recent, n_prompt_cells + DEFAULT_POOL)
        self.check_window(recent)
        return replace(self, heavy=heavy, recent=recent)

    def capacity(self, n_prompt_cells: int, n_predict: int | None) -> int:
        """Both kinds and `interval`; at least the prompt, at most prompt and output."""
        held = max(n_prompt_cells, sum(self._pool()) + self.interval)
        return held if n_predict is None else min(held, n_prompt_cells + n_predict)

    def due(self, step: Step) -> bool:
        """Whenever `interval` cells too many have come together."""
        return step.n_cells >= sum(self._pool()) + self.interval

    def select(self, view: View) -> BoolArray:
        """Keep the recent tokens and fill up with heavy hitters, which give way first."""
        heavy, recent = self._pool()
        keep = min(view.limit, heavy + recent)
        safe = view.newest(min(keep, recent + self.grace))
        return keep_best(view, view.scores, safe, keep)

    def _pool(self) -> tuple[int, int]:
        if self.heavy is None or self.recent is None:
            raise ValueError(f"{self.name}: heavy and recent are not known before resolve()")
        return self.heavy, self.recent
