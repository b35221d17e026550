"""The cells of one sequence: asking a policy which rows stay in them, and freeing the others."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from scope_cpp.engine.cache.choice import choose
from scope_cpp.engine.cache.ledger import Ledger
from scope_cpp.engine.cache.marks import Marks
from scope_cpp.engine.cache.plan import plan_eviction
from scope_cpp.engine.cache.scorer import Scorer
from scope_cpp.engine.cache.stats import CacheStats
from scope_cpp.engine.context import Context
from scope_cpp.engine.footprint import MOVES_AT_ONCE
from scope_cpp.errors import ScopeError
from scope_cpp.native import kv_evict
from scope_cpp.policies.base import Policy, View

Keep = NDArray[np.bool_]
Cells = NDArray[np.int32]


class HeldCells:
    """The cells that a sequence has in a context, what is known of their rows, and evicting some.

    Parameters
    ----------
    context
        Its cache holds at least `capacity` cells for this sequence.
    capacity
        Most cells that the sequence may use.
    seq
        The sequence.
    whole_cells
        One choice for all layers and heads, from scores pooled by their maximum over the layers
        and the query heads.
    n_predict
        Longest output, ``None`` if unknown.

    Attributes
    ----------
    stats
        Counters since the start, or since `BoundedCache.begin_turn`.
    n_past, n_prompt, n_prompt_cells
        Tokens so far, those of them that are the prompt, and the cells that it kept.
    held
        Positions of tokens whose cells no selection gives up: int32, pairs of start and stop,
        ascending. Empty unless it is set.
    ledger
        What the rows hold, as of the last call that looked at the cells (`sync`, `positions`).
    scorer
        What turns recorded queries into the ledger's scores.
    marks
        Points to go back to (`scope_cpp.engine.cache.rewind`).
    since
        Tokens since the last selection.
    """

    def __init__(
        self, context: Context, capacity: int, seq: int, whole_cells: bool, n_predict: int | None
    ) -> None:
        self.context, self.capacity, self.seq = context, capacity, seq
        self.whole_cells, self.n_predict = whole_cells, n_predict
        self.stats = CacheStats()
        self.n_past = self.n_prompt = self.n_prompt_cells = self.since = 0
        self.held = np.empty(0, np.int32)
        self.marks = Marks()
        self.scorer = Scorer(context, seq, whole_cells)
        ptr = context.ptr
        n_layer, n_head_kv = kv_evict.n_layer(ptr), kv_evict.n_head_kv(ptr)
        n_head_scored = kv_evict.n_head(ptr) if whole_cells else n_head_kv
        self.ledger = Ledger.empty(n_layer, n_head_kv, n_head_scored)
        own = kv_evict.own_heads(ptr)[:, 1:]
        self._originals = np.arange(n_head_kv) % own if (own < n_head_kv).any() else None

    def sync(self) -> tuple[Cells, NDArray[np.bool_]]:
        """Let the ledger follow llama.cpp; return the cells, int32 (n,), and which are shared.

        bool (n,): those that another sequence has too.
        """
        labels, ids, shared = kv_evict.cells(self.context.ptr, self.seq)
        self.ledger.sync(labels)
        return ids, shared

    def positions(self) -> NDArray[np.int32]:
        """Return the true positions of the rows of each head: int32 (layer, KV head, n).

        -1 where a row is dead: the layer keeps fewer than another one.
        """
        self.sync()
        return self.ledger.pos

    def holds(self, labels: NDArray[np.int32]) -> NDArray[np.bool_]:
        """Whether tokens at these positions are `held`."""
        return np.searchsorted(self.held, labels, side="right") % 2 == 1

    def score(self, policy: Policy, ids: Cells, settles: bool = True) -> None:
        """Fold the attention of queries that were not scored yet into the ledger.

        Unless it `settles`, new cells may be left to be weighed ahead of their use later.
        """
        started = time.perf_counter()
        n_cells = self.capacity - self.n_prompt_cells
        self.scorer.fold(policy, self.ledger, ids, self.n_prompt, n_cells, settles)
        self.stats.score_seconds += time.perf_counter() - started

    def evict_by(self, policy: Policy, select: Callable[[View], Keep], limit: int) -> None:
        """Let a policy choose rows of `limit` cells at most, by `select`, and free the other cells.

        Raises
        ------
        ScopeError
            If so many cells must stay that none can be chosen, or as `choose` does: those that
            other sequences share, and those that are held.
        """
        ids, shared = self.sync()
        stays = shared | self.holds(self.ledger.labels)
        self.scorer.observed = None
        if policy.needs_scores:
            self.score(policy, ids)
        started = time.perf_counter()
        if limit <= stays.sum():
            why = "shared with other sequences" if shared.any() else "those of prompts that stay"
            raise ScopeError(
                f"{int(stays.sum())} of {self.capacity} cells are {why}, so that the others are "
                "not enough: give a larger --budget"
            )
        by_layer = policy.uneven or bool(self.ledger.dead.any())
        keep = choose(select, self._view(policy, limit, ids), stays, by_layer)
        keep = self.by_row(keep)
        stats = self.stats
        stats.selections += 1
        lost = self.scorer.share_lost(keep)
        if lost is not None:
            stats.attention_loss += (lost - stats.attention_loss) / stats.selections
        stats.select_seconds += time.perf_counter() - started
        self.free(keep, ids, policy.uneven)
        self.since = 0

    def by_row(self, keep: Keep) -> Keep:
        """Rows that stay, of all layers and KV heads: bool (layer, KV head, n).

        A double keeps what its original keeps, whatever a policy makes of the number of a head.
        """
        keep = np.broadcast_to(keep, self.ledger.pos.shape)
        if self._originals is None:
            return keep
        return np.take_along_axis(keep, self._originals[:, :, None], axis=1)

    def free(self, keep: Keep, ids: Cells, uneven: bool = False) -> int:
        """Free the cells of rows that stay in no head; return how many cells that were.

        Parameters
        ----------
        keep
            bool (layer, KV head, n): the rows that stay.
        ids
            int32 (n,): the cells, as `sync` returns them.
        uneven
            Whether layers may keep different numbers of rows.
        """
        started = time.perf_counter()
        had_dead = bool(self.ledger.dead.any())
        plan = plan_eviction(keep, uneven=uneven or had_dead)
        planned = time.perf_counter()
        self._apply(ids[plan.src], ids[plan.dst], ids[plan.free])
        if had_dead or plan.dead.any():
            kv_evict.set_dead(self.context.ptr, self.seq, ids[plan.stay], plan.dead)
        if plan.first is not None:
            self.marks.disturb(int(self.ledger.labels[plan.first]))
        self.ledger.apply(plan)
        stats = self.stats
        stats.cells_used -= plan.free.size
        stats.dead_rows = float(plan.dead.sum(axis=1).mean())
        stats.evicted += plan.free.size
        stats.select_seconds += planned - started
        stats.move_seconds += time.perf_counter() - planned
        return int(plan.free.size)

    def _apply(self, src: Cells, dst: Cells, free: Cells) -> None:
        """Move rows and free cells, some moves at a time: no row of a plan is read once written.

        So the memory for them does not depend on how many there are.
        """
        ptr, seq, n = self.context.ptr, self.seq, src.shape[2]
        for first in range(0, n, MOVES_AT_ONCE):
            part = slice(first, first + MOVES_AT_ONCE)
            moves = np.ascontiguousarray(src[:, :, part]), np.ascontiguousarray(dst[:, :, part])
            kv_evict.apply(ptr, seq, *moves, free[:0])
        none = src[:, :, :0]
        kv_evict.apply(ptr, seq, none, none, free)

    def _view(self, policy: Policy, limit: int, ids: Cells) -> View:
        """What the policy sees."""

        def rows(values: bool) -> NDArray[np.float32]:
            return kv_evict.rows(self.context.ptr, self.seq, ids, values=values)

        pos, scores = self.ledger.ranked(self.whole_cells)
        return View(
            pos,
            scores,
            self.n_prompt,
            self.n_past,
            self.n_predict,
            limit,
            rows(values=False) if policy.needs_keys else None,
            rows(values=True) if policy.needs_values else None,
        )
