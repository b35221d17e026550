"""What the prefill policies share that drop cells: α1 heavy hitters and the last tokens."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, replace
from typing import ClassVar

from typing_extensions import Self

from scope_cpp.policies.base import BoolArray, FloatArray, PrefillPolicy, View, option
from scope_cpp.policies.select import keep_best
from scope_cpp.policies.sizes import check_budget


@dataclass(frozen=True)
class HeavyPrefill(PrefillPolicy):
    """Φp = Ψ_α1(AttP[: −last]) ∪ the last prompt tokens (https://arxiv.org/abs/2412.13649).

    The derived size is three quarters of the budget (the paper's α1+α2 = 2048 beside β1+β2 =
    512 or 1024), or without a budget 60 % of the prompt, as in the paper's efficiency runs. A
    prompt that is no longer than that stays whole.

    AttP is the attention over the whole prompt where the capacity holds it. A longer prompt is
    read in chunks of a quarter of the capacity at most, and of no more tokens than there are
    queries recorded (64, or the window). Before each chunk, heavy hitters are chosen by the same
    formula among the rows that are there, as many as the chunk leaves room for. So a token that
    later chunks would have looked up may be gone by then; the last tokens always stay.
    """

    name: ClassVar[str]
    needs_scores: ClassVar[bool] = True

    alpha1: int | None = option(None, "heavy hitters of the prompt; derived: 3/4 of the budget")

    @abstractmethod
    def last(self) -> int:
        """Last prompt tokens that always stay."""

    def rank(self, view: View) -> FloatArray:
        """Scores by which the heavy hitters are chosen, (L, H, n)."""
        return view.scores

    def resolve(self, budget: int | None, n_prompt: int) -> Self:
        """Derive α1; see the class. One cell of a budget is left for the first output token."""
        minimum = (self.alpha1 or 0) + self.last() + 1
        heavy = f"alpha1 {self.alpha1} + " if self.alpha1 else ""
        parts = f"{heavy}{self.last()} last prompt tokens + 1 to decode into"
        check_budget(self.name, budget, min(n_prompt + 1, minimum), parts, alpha1=self.alpha1)
        if self.alpha1 is not None:
            return self
        return replace(self, alpha1=max(0, derived_size(budget, n_prompt) - self.last()))

    def cells(self, n_prompt: int) -> int:
        """α1 and the last tokens, or the whole prompt if it is shorter."""
        return min(n_prompt, self._pool())

    def select(self, view: View, final: bool) -> BoolArray:
        """Keep the last tokens and fill up with heavy hitters, which give way first."""
        keep = min(view.limit, self._pool()) if final else view.limit
        safe = view.newest(min(keep, self.last()))
        return keep_best(view, self.rank(view), safe, keep)

    def warnings(self) -> tuple[str, ...]:
        """Warn that part of the prompt is lost."""
        return (
            f"prefill {self.name} drops cells of the prompt: answers that need all of it suffer;"
            " --prefill full keeps it whole",
        )

    def _pool(self) -> int:
        if self.alpha1 is None:
            raise ValueError(f"{self.name}: alpha1 is not known before resolve()")
        return self.alpha1 + self.last()


@dataclass(frozen=True)
class WindowPrefill(HeavyPrefill):
    """Heavy hitters by the attention of the last `window` queries, whose own tokens stay."""

    window: int = option(32, "last prompt tokens that observe and always stay", low=1)

    def last(self) -> int:
        """As many as the window observes with."""
        return self.window

    def n_queries(self, since: int) -> int:
        """As many as the window has, however long the prompt."""
        return self.window

    def fold(self, acc: FloatArray, observed: FloatArray, n: int) -> FloatArray:
        """Only the newest observation counts; see `Policy.fold`."""
        return observed


def derived_size(budget: int | None, n_prompt: int) -> int:
    """Cells of the prompt's pool where the options leave it open; see `HeavyPrefill`."""
    return -(-n_prompt * 3 // 5) if budget is None else budget * 3 // 4
