"""What the policies share that have one budget for prompt and output."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from typing_extensions import Self

from scope_cpp.policies.base import BoolArray, DecodePolicy, Step, View, option
from scope_cpp.policies.scored import ScoredDecodePolicy
from scope_cpp.policies.select import keep_best
from scope_cpp.policies.sizes import DEFAULT_POOL, check_budget, least, sum_of


@dataclass(frozen=True)
class OneBudget(DecodePolicy):
    """The sizes: rows that are ranked, the last `recent` tokens, and `interval` to grow into.

    A method says how many recent tokens and which interval it uses where the budget has room.
    """

    name: ClassVar[str]
    ranks_prompt: ClassVar[bool] = True
    usual_recent: ClassVar[int | None] = None
    usual_interval: ClassVar[int] = 1

    heavy: int | None = option(None, "heavy hitters; derived: what the recent tokens leave")
    recent: int | None = option(
        None, "most recent tokens; derived: the method's, at most half of the budget", low=1
    )
    interval: int | None = option(
        None, "tokens between selections; derived: the method's, at most 1/8 of the budget", low=1
    )

    @property
    def sized(self) -> bool:
        """Whether both kinds are given."""
        return self.heavy is not None and self.recent is not None

    def resolve(self, budget: int | None, n_prompt_cells: int, n_predict: int | None) -> Self:
        """Divide the budget, less `interval`; what is given stays."""
        interval = self.interval or self._derive_interval(budget, n_prompt_cells)
        minimum = max(n_prompt_cells, least(self.heavy, self.recent) + interval)
        given = {"heavy": self.heavy, "recent": self.recent, "interval": self.interval}
        pool = sum_of(heavy=self.heavy, recent=self.recent or 1, interval=interval)
        check_budget(self.name, budget, minimum, f"prompt {n_prompt_cells}, or {pool}", **given)
        whole = n_prompt_cells + DEFAULT_POOL if budget is None else budget - interval
        heavy, recent = self._divide(whole, n_prompt_cells, budget is None)
        return replace(self, heavy=heavy, recent=recent, interval=interval)

    def capacity(self, n_prompt_cells: int, n_predict: int | None) -> int:
        """Both kinds and `interval`; at least the prompt, at most prompt and output."""
        held = max(n_prompt_cells, self._cells())
        return held if n_predict is None else min(held, n_prompt_cells + n_predict)

    def due(self, step: Step) -> bool:
        """Whenever `interval` cells too many have come together."""
        return step.n_cells >= self._cells()

    def _divide(self, whole: int, n_prompt_cells: int, free: bool) -> tuple[int, int]:
        """Heavy hitters and recent tokens; `free` if `whole` is no limit for what is given."""
        half = max(1, whole // 2)
        if self.heavy is not None:
            return self.heavy, self.recent or (half if free else whole - self.heavy)
        recent = self.recent or min(self.usual_recent or half, half)
        return max(0, whole - recent), recent

    def _derive_interval(self, budget: int | None, n_prompt_cells: int) -> int:
        most = self.usual_interval if budget is None else budget // 8
        return max(1, min(self.usual_interval, most))

    def _keep(self, view: View) -> int:
        """Rows to keep of a view: all kinds, less those that are held."""
        return max(1, min(view.limit, sum(self._pool()) - view.n_held))

    def _cells(self) -> int:
        if self.interval is None:
            raise ValueError(f"{self.name}: interval is not known before resolve()")
        return sum(self._pool()) + self.interval

    def _pool(self) -> tuple[int, int]:
        if self.heavy is None or self.recent is None:
            raise ValueError(f"{self.name}: heavy and recent are not known before resolve()")
        return self.heavy, self.recent


@dataclass(frozen=True)
class Unified(ScoredDecodePolicy, OneBudget):
    """Ψ_heavy(Att[: −recent]) ∪ the last `recent` tokens, over prompt and output alike.

    The first `sinks` tokens may be made safe too; the heavy hitters pay for them.
    """

    name: ClassVar[str]
    reads_prompt: ClassVar[bool] = True

    sinks: int = option(0, "first tokens that always stay, among the heavy hitters")

    def resolve(self, budget: int | None, n_prompt_cells: int, n_predict: int | None) -> Self:
        """Divide the budget; a window reaches back no further than the recent tokens."""
        known = super().resolve(budget, n_prompt_cells, n_predict)
        known.check_window(known._pool()[1])
        return known

    def select(self, view: View) -> BoolArray:
        """Keep the recent tokens and fill up with heavy hitters, which give way first."""
        _, recent = self._pool()
        keep = self._keep(view)
        newest = min(keep, recent + self.grace)
        safe = view.newest(newest)
        if self.sinks:
            safe |= view.pos < min(self.sinks, keep - newest)
        return keep_best(view, self.rank(view), safe, keep)
