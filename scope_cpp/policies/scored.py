"""Decode policies that rank cells by attention, and the options that say how."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any, ClassVar

import numpy as np

from scope_cpp.policies.base import DecodePolicy, FloatArray, View, option
from scope_cpp.policies.scores import neighbours, ranking
from scope_cpp.policies.scores.folding import RULES, add, tempered
from scope_cpp.policies.scores.foresight import unlikeness
from scope_cpp.policies.scores.ordering import in_order
from scope_cpp.policies.scores.redundancy import less_redundant
from scope_cpp.policies.select import finite
from scope_cpp.policies.sizes import TooSmall

WINDOWED = tuple(name for name, rule in RULES.items() if rule.queries == "window")


@dataclass(frozen=True)
class ScoredDecodePolicy(DecodePolicy):
    """A decode policy that ranks cells by attention, with the options that say by which.

    A row's score is what its rule makes of the weights seen so far (`scores.folding`):
    ``accumulate`` sums those of all queries, ``window`` those of the last ones, ``last`` takes
    the current query alone, Ψ(Att_t) of SCOPE (https://arxiv.org/abs/2412.13649); ``peak`` keeps
    the highest, ``last-use`` that of the last use, ``global`` the highest share (G-KV). The
    scores so far are multiplied by ``decay**n`` before n queries are merged: the queries of one
    fold weigh alike.

    With ``ahead``, each new row gets at once what the last queries of the prompt would give to it
    (`scores.foresight`): what the output will look up is often known from what the prompt asks.
    With ``unlike``, it gets less the more alike it is to a row that is there already. Both come to
    ``ahead_weight`` times the cells that the output may have: what attention adds up to in a cell
    grows with the output.

    Rows then compete by their scores, or by what `rank` makes of these, in this order: divided
    by lifetime, times value norms, mixed with those of other heads, smoothed, less redundancy, and
    shared over spans.

    ``grace`` lengthens the recent tokens that are safe from the ranking without making the pool
    larger: what they take, the heavy hitters give.
    """

    needs_scores: ClassVar[bool] = True

    score: str = option(
        "accumulate", "what a cell's score keeps of the attention", choices=tuple(RULES)
    )
    window: int = option(16, "queries that score=window and score=global look at", low=1)
    decay: float = option(1.0, "what older score is multiplied by per token", high=1)
    power: float = option(1.0, "power of the weights before they are merged", high=4)
    lifetime: float = option(0.0, "power of the lifetime that scores are divided by", high=1)
    values: float = option(0.0, "power of the values' L1 norm that scores are multiplied by")
    mix: float = option(0.0, "share of the scores that other heads give", high=1)
    mix_over: str = option("layer", "heads that are mixed", choices=ranking.OVER)
    mix_by: str = option("mean", "how heads are pooled for the mix", choices=ranking.BY)
    redundancy: float = option(0.0, "share of the keys' redundancy, taken off", high=1)
    smooth: int = option(
        1, "neighbours that scores are pooled over, odd", low=1, high=neighbours.LARGEST_KERNEL
    )
    smooth_by: str = option("max", "how neighbours are pooled", choices=neighbours.POOLINGS)
    span: int = option(1, "neighbours that stay or go together", low=1)
    ahead: int = option(0, "last queries of the prompt that weigh each new cell ahead of its use")
    ahead_weight: float = option(3.0, "what their weights are multiplied by, for each cell")
    unlike: float = option(0.0, "power of how unlike a new cell is to those before it", high=16)
    grace: int = option(0, "tokens for which a cell stays safe after it left the recent window")

    def __post_init__(self) -> None:
        """Check the options; a kernel has a middle."""
        super().__post_init__()
        if self.smooth % 2 == 0:
            raise ValueError(f"smooth={self.smooth}: must be odd")
        for name in ("ahead", "unlike"):
            if getattr(self, name) and RULES[self.score].merge is not add:
                raise ValueError(
                    f"{name}={getattr(self, name)}: needs score=accumulate or score=none;"
                    f" {name}=0 goes without"
                )
        if self.score == "none" and not self.ahead and not self.unlike:
            raise ValueError("score=none: needs ahead or unlike, or nothing ranks the cells")

    @property
    def needs_keys(self) -> bool:  # type: ignore[override]
        """Whether rows are compared by their keys."""
        return self.redundancy > 0

    @property
    def needs_values(self) -> bool:  # type: ignore[override]
        """Whether value norms weigh the scores."""
        return self.values > 0

    @property
    def compares_layers(self) -> bool:  # type: ignore[override]
        """Whether heads of other layers give part of a score."""
        return self.mix > 0 and self.mix_over == "model"

    def check_window(self, recent: int) -> None:
        """Refuse a window that reaches back beyond the recent tokens.

        Rows are moved when their token leaves the recent window; a query older than that would
        be weighed against rows that were not where they are now.

        Raises
        ------
        TooSmall
            A windowed score with more queries than recent tokens.
        """
        if self.score in WINDOWED and self.window > recent:
            reason = f"window={self.window} is more than the {recent} recent tokens"
            raise TooSmall(f"{self.name}: {reason}", 0, ["window"])

    def n_queries(self, since: int) -> int:
        """All queries since the last fold, the window, or the last query."""
        queries = {"all": since, "window": self.window, "last": 1, "none": 0}
        return queries[RULES[self.score].queries]

    def fold(self, acc: FloatArray, observed: FloatArray, n: int) -> FloatArray:
        """Merge by the rule, after decay and power; see `Policy.fold`."""
        kept = acc if self.decay == 1 else acc * np.float32(self.decay**n)
        weights = observed if self.power == 1 else tempered(observed, n, self.power)
        return RULES[self.score].merge(kept, weights, n)

    def expect(self, weights: FloatArray, likeness: FloatArray | None, n_cells: int) -> FloatArray:
        """`ahead_weight` times the output's cells times the weights; see `Policy.expect`."""
        expected: FloatArray = np.float32(self.ahead_weight * n_cells) * weights
        if likeness is not None:
            expected *= unlikeness(likeness, weights.shape[1], self.unlike)
        return expected

    def rank(self, view: View) -> FloatArray:
        """Numbers by which the rows compete, (L, H, n); see the class."""
        plain = not (self.lifetime or self.values or self.mix or self.redundancy)
        if plain and self.smooth == self.span == 1:
            return view.scores
        return in_order(view, self._rank)

    def _rank(self, view: View) -> FloatArray:
        """As `rank`, of rows in the order of positions."""
        scores, pos = finite(view.scores), view.pos
        if self.lifetime:
            scores = ranking.per_lifetime(scores, view.n_past - pos, self.lifetime, self.decay)
        if self.values:
            scores = ranking.by_value_norm(scores, _given(view.values), self.values)
        if self.mix or self.redundancy:
            scores = ranking.shares(scores)
        if self.mix:
            scores = ranking.mixed(scores, pos, self.mix, self.mix_over, self.mix_by)
        if self.smooth > 1:
            scores = neighbours.smoothed(scores, pos, self.smooth, self.smooth_by)
        if self.redundancy:
            scores = less_redundant(scores, _given(view.keys), self.redundancy)
        if self.span > 1:
            scores = neighbours.spanned(scores, pos, self.span, view.n_prompt)
        return scores


def preset(name: str, default: Any) -> Any:
    """Declare the option `name` of scored policies anew, with a default of its own."""
    known = {item.name: item for item in fields(ScoredDecodePolicy)}
    return field(default=default, metadata=known[name].metadata)


def _given(rows: FloatArray | None) -> FloatArray:
    """Keys or values, which the policy asked for; ValueError if they are not there."""
    if rows is None:
        raise ValueError("the view has no keys or values, which the policy needs")
    return rows
