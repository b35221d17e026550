"""Recorded queries of one sequence, and when and how they are folded into its scores."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scope_cpp.engine.cache.foresight import Foresight
from scope_cpp.engine.cache.ledger import Ledger
from scope_cpp.engine.context import Context
from scope_cpp.native import kv_evict
from scope_cpp.policies.base import DecodePolicy, Policy, PrefillPolicy

# Queries that are recorded per sequence. Those of a longer interval are scored in several calls.
DECODE_QUERIES = 32
PROMPT_QUERIES = 64
AHEAD_QUERIES = 64


class Scorer:
    """Folds the attention of recorded queries into the scores of a ledger.

    Attributes
    ----------
    by_head
        Whether scores are kept by query head, not by KV head.
    ring
        Queries that are recorded at most.
    unscored, unweighed
        Tokens whose queries were not folded yet, and whose cells were not weighed ahead.
    observed
        What was folded last: float32 (layer, head, n).
    foresight
        What weighs new cells, where the policy looks ahead.
    """

    def __init__(self, context: Context, seq: int, by_head: bool) -> None:
        self.context, self.seq, self.by_head = context, seq, by_head
        self.ring = 0
        self.unscored = self.unweighed = 0
        self.observed: NDArray[np.float32] | None = None
        self.foresight = Foresight(context, seq)

    def n_recorded(self) -> int:
        """Most recent queries that are recorded without a gap."""
        return kv_evict.n_queries(self.context.ptr, self.seq)

    # options may ask for powers and factors that overflow, see `choice.choose`
    @np.errstate(all="ignore")
    def fold(
        self,
        policy: Policy,
        ledger: Ledger,
        ids: NDArray[np.int32],
        n_prompt: int,
        n_cells: int,
        settles: bool = True,
    ) -> None:
        """Fold what was not scored yet into the ledger, as `policy` does.

        Parameters
        ----------
        policy
            Whose scores the ledger has.
        ledger, ids
            The rows, and their cells.
        n_prompt, n_cells
            Where the output begins, and the cells that it may have.
        settles
            Whether nothing may be left to do later: before a selection, and where others take over.
        """
        n_new = min(self.unscored, ids.size)
        n = min(policy.n_queries(self.unscored), self.n_recorded())
        if n > 0:
            self.observed = self._scores(n, ids)
            ledger.scores = policy.fold(ledger.scores, self.observed, n)
        weighs = self.foresight.weighs
        if n > 0 or weighs:
            self.unscored = 0
        if not weighs:
            self.unweighed = 0
        elif settles or not (n_new and policy.weighs_later(ledger.scores[..., -n_new:])):
            self._weigh(policy, ledger, ids, n_prompt, n_cells)
        else:
            new = ledger.scores[..., -n_new:]
            nothing = np.zeros(new.shape[-3:], np.float32)
            ledger.scores[..., -n_new:] = policy.foresee(new, nothing, None, n_cells)

    def _weigh(
        self, policy: Policy, ledger: Ledger, ids: NDArray[np.int32], n_prompt: int, n_cells: int
    ) -> None:
        """Weigh the cells that wait for it ahead of their use, some at a time.

        If that fails, those that are left still wait.
        """
        self.unweighed = min(self.unweighed, ids.size)
        while self.unweighed:
            n = min(self.unweighed, AHEAD_QUERIES)
            first = ids.size - self.unweighed
            new = ledger.scores[..., first : first + n]
            layers = policy.looks_ahead(new)
            self.foresight.read_prompt(ledger.pos, ids, n_prompt, layers)
            there = ids[: first + n]
            unlike = bool(policy.unlike)
            weights, likeness = self.foresight.weigh(there, n, self.by_head, layers, unlike)
            ledger.scores[..., first : first + n] = policy.foresee(new, weights, likeness, n_cells)
            self.unweighed -= n

    @np.errstate(all="ignore")
    def folded(
        self, policy: Policy, ledger: Ledger, ids: NDArray[np.int32], n: int
    ) -> NDArray[Any]:
        """Scores as `policy` would make them of the last `n` queries; nothing is changed.

        They begin at 0 where another policy keeps other numbers.
        """
        n = min(policy.n_queries(n), n, self.n_recorded())
        scores = replace(ledger)
        scores.hold(policy.row)
        if n <= 0:
            return scores.scores
        return policy.fold(scores.scores, self._scores(n, ids), n)

    def is_due(self, policy: Policy, n_next: int) -> bool:
        """Whether `n_next` queries overwrite others that a policy sums over."""
        overwritten = self.unscored + n_next > self.ring
        return overwritten and policy.n_queries(self.unscored) >= self.unscored

    def share_lost(self, keep: NDArray[np.bool_]) -> float | None:
        """Share of the attention folded last on rows that go; ``None`` if none was folded."""
        if self.observed is None:
            return None
        given_up = np.repeat(~keep, self.observed.shape[1] // keep.shape[1], axis=1)
        total = float(self.observed.sum())
        return float(self.observed[given_up].sum()) / total if total > 0 else 0.0

    def keep_by_head(self, by_head: bool, ledger: Ledger) -> None:
        """Keep scores by query head, or by KV head, from now on.

        Those of a KV head are divided equally, those of query heads summed up.
        """
        if self.by_head == by_head:
            return
        self.by_head = by_head
        ptr = self.context.ptr
        n_head, n_head_kv = kv_evict.n_head(ptr), kv_evict.n_head_kv(ptr)
        ledger.share_scores(max(1, n_head // max(1, n_head_kv)), by_head)

    def _scores(self, n: int, ids: NDArray[np.int32]) -> NDArray[np.float32]:
        return kv_evict.scores(self.context.ptr, self.seq, n, ids, by_head=self.by_head)


def ring_size(
    decode: DecodePolicy, prefill: PrefillPolicy, reads_prompt: bool, capacity: int
) -> int:
    """Queries to record for these policies.

    No window needs more than the capacity: its tokens are among those that stay.
    """
    windows = fixed_window(prefill), fixed_window(decode), min(decode.ahead, AHEAD_QUERIES)
    if reads_prompt:
        return max(PROMPT_QUERIES, min(capacity, max(windows)))
    # one query even where no attention is read: moves need the native state
    return max(DECODE_QUERIES, min(capacity, max(windows))) if decode.needs_scores else 1


def fixed_window(policy: Policy) -> int:
    """Return the queries that the policy wants however many are new; 0 if it sums over all."""
    return 0 if policy.n_queries(2**30) == 2**30 else policy.n_queries(1)
