"""What the three SCOPE strategies share: two pools, of which the prompt's is never touched."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, replace
from typing import ClassVar

from typing_extensions import Self

from scope_cpp.policies.base import BoolArray, View, option
from scope_cpp.policies.scored import ScoredDecodePolicy
from scope_cpp.policies.select import count, keep_best
from scope_cpp.policies.sizes import check_budget, least, split, sum_of

SAFE_RECENT = 128
"""Below this β2 the paper saw the adaptive and discontinuous strategies collapse."""


@dataclass(frozen=True)
class Scope(ScoredDecodePolicy):
    """Φp, the prompt's cells, stays; Φd holds `beta1` heavy hitters and the last `beta2` tokens.

    Based on SCOPE (https://arxiv.org/abs/2412.13649): Φd = Ψ_β1(Att[α1+α2 : −β2]) ∪ the last
    β2 generated tokens. A strategy says how large the history is after t tokens (`history`),
    how far the pool floats above β1 + β2 between selections (`slack_cells`), and when it
    selects (`due`).
    """

    name: ClassVar[str]

    beta1: int | None = option(None, "heavy hitters of the output; derived: half its pool")
    beta2: int | None = option(None, "last tokens of the output; derived: half its pool", low=1)

    @abstractmethod
    def slack_cells(self) -> int:
        """Cells by which the output's pool may exceed β1 + β2 between selections."""

    @abstractmethod
    def history(self, t: int, n_predict: int | None) -> int:
        """Heavy hitters β1(t) that are kept after `t` generated tokens."""

    @property
    def sized(self) -> bool:
        """Whether both pools are given."""
        return self.beta1 is not None and self.beta2 is not None

    def resolve(self, budget: int | None, n_prompt_cells: int, n_predict: int | None) -> Self:
        """Divide what prompt and slack leave of the budget: β2 is half of it, β1 the rest.

        Two sizes that are given may fill the budget to the last cell: β1 then pays for the slack.
        """
        slack = self.slack_cells()
        paid = min(slack, self.beta1 or 0) if self.beta2 is not None else 0
        minimum = n_prompt_cells + least(self.beta1, self.beta2) + slack - paid
        given = {"beta1": self.beta1, "beta2": self.beta2}
        parts = sum_of(prompt=n_prompt_cells, **given | {"beta2": self.beta2 or 1})
        parts += f" + {slack - paid} between selections" if slack > paid else ""
        check_budget(self.name, budget, minimum, parts, **given)
        room = None if budget is None else budget - n_prompt_cells - slack
        beta1, beta2 = split(room, self.beta1, self.beta2)
        if room is not None:
            beta1 = min(beta1, room - beta2)
        self.check_window(beta2)
        return replace(self, beta1=beta1, beta2=beta2)

    def capacity(self, n_prompt_cells: int, n_predict: int | None) -> int:
        """Prompt, β1, β2 and slack; at most prompt and output."""
        output = self.output_cells()
        return n_prompt_cells + (output if n_predict is None else min(output, n_predict))

    def select(self, view: View) -> BoolArray:
        """Keep Φp, the last β2 tokens, and β1(t) heavy hitters of the output.

        With little room the history gives way first, then the recent tokens but the newest. The
        prompt's cells go last, the earliest first: only a limit below their number takes any.
        """
        _, beta2 = self.pools()
        prompt = view.prompt
        n_prompt_rows = int(count(prompt).max())
        output = beta2 + self.history(view.n_generated, view.n_predict)
        keep = min(view.limit, n_prompt_rows + output)
        recent = min(beta2 + self.grace, keep - n_prompt_rows)
        return keep_best(view, self.rank(view), prompt | view.newest(max(1, recent)), keep)

    def warnings(self) -> tuple[str, ...]:
        """Warn about a β2 below 128."""
        if self.beta2 is None or self.beta2 >= SAFE_RECENT:
            return ()
        return (
            f"beta2 = {self.beta2} is below {SAFE_RECENT}, where SCOPE's quality was seen to"
            " collapse: a larger budget or -o beta2=... helps",
        )

    def pools(self) -> tuple[int, int]:
        """β1 and β2; ValueError before `resolve`."""
        if self.beta1 is None or self.beta2 is None:
            raise ValueError(f"{self.name}: beta1 and beta2 are not known before resolve()")
        return self.beta1, self.beta2

    def output_cells(self) -> int:
        """Most cells that the output's pool ever holds."""
        return sum(self.pools()) + self.slack_cells()

    def output_fits(self, n_predict: int | None) -> bool:
        """Whether the longest output fits as a whole, so that nothing need ever be evicted."""
        return n_predict is not None and n_predict <= self.output_cells()
