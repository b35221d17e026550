"""Evicting cells of a bounded cache: asking a policy which rows stay, and freeing the others."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from scope_cpp.engine.cache.choice import choose
from scope_cpp.engine.cache.plan import plan_eviction
from scope_cpp.engine.footprint import MOVES_AT_ONCE
from scope_cpp.errors import ScopeError
from scope_cpp.native import kv_evict
from scope_cpp.policies.base import Policy, View

if TYPE_CHECKING:
    from scope_cpp.engine.cache.bounded import BoundedCache

Keep = NDArray[np.bool_]
Cells = NDArray[np.int32]


def evict_by(
    cache: BoundedCache, policy: Policy, select: Callable[[View], Keep], limit: int
) -> None:
    """Let a policy choose rows of `limit` cells at most, by `select`, and free the other cells.

    Raises
    ------
    ScopeError
        If so many cells must stay that none can be chosen, or as `choose` does: those that other
        sequences share, and those that are held (`BoundedCache.held`).
    """
    ids, shared = cache.sync()
    stays = shared | cache.holds(cache.ledger.labels)
    cache.scorer.observed = None
    if policy.needs_scores:
        cache.score(policy, ids)
    started = time.perf_counter()
    if limit <= stays.sum():
        why = "shared with other sequences" if shared.any() else "those of prompts that stay"
        raise ScopeError(
            f"{int(stays.sum())} of {cache.capacity} cells are {why}, so that the others are not "
            "enough: give a larger --budget"
        )
    by_layer = policy.uneven or bool(cache.ledger.dead.any())
    keep = choose(select, _view(cache, policy, limit, ids), stays, by_layer)
    keep = np.broadcast_to(keep, cache.ledger.pos.shape)
    stats = cache.stats
    stats.selections += 1
    lost = cache.scorer.share_lost(keep)
    if lost is not None:
        stats.attention_loss += (lost - stats.attention_loss) / stats.selections
    stats.select_seconds += time.perf_counter() - started
    evict(cache, keep, ids, policy.uneven)
    cache.since = 0


def evict(cache: BoundedCache, keep: Keep, ids: NDArray[np.int32], uneven: bool = False) -> int:
    """Free the cells of rows that stay in no head; return how many cells that were.

    Parameters
    ----------
    keep
        bool (layer, KV head, n): the rows that stay.
    ids
        int32 (n,): the cells, as `BoundedCache.sync` returns them.
    uneven
        Whether layers may keep different numbers of rows.
    """
    started = time.perf_counter()
    had_dead = bool(cache.ledger.dead.any())
    plan = plan_eviction(keep, uneven=uneven or had_dead)
    planned = time.perf_counter()
    _apply(cache, ids[plan.src], ids[plan.dst], ids[plan.free])
    if had_dead or plan.dead.any():
        kv_evict.set_dead(cache.context.ptr, cache.seq, ids[plan.stay], plan.dead)
    if plan.first is not None:
        cache.marks.disturb(int(cache.ledger.labels[plan.first]))
    cache.ledger.apply(plan)
    stats = cache.stats
    stats.cells_used -= plan.free.size
    stats.dead_rows = float(plan.dead.sum(axis=1).mean())
    stats.evicted += plan.free.size
    stats.select_seconds += planned - started
    stats.move_seconds += time.perf_counter() - planned
    return int(plan.free.size)


def _apply(cache: BoundedCache, src: Cells, dst: Cells, free: Cells) -> None:
    """Move rows and free cells, some moves at a time: no row of a plan is read after it is written.

    So the memory for them does not depend on how many there are.
    """
    ptr, seq, n = cache.context.ptr, cache.seq, src.shape[2]
    for first in range(0, n, MOVES_AT_ONCE):
        part = slice(first, first + MOVES_AT_ONCE)
        moves = np.ascontiguousarray(src[:, :, part]), np.ascontiguousarray(dst[:, :, part])
        kv_evict.apply(ptr, seq, *moves, free[:0])
    none = src[:, :, :0]
    kv_evict.apply(ptr, seq, none, none, free)


def _view(cache: BoundedCache, policy: Policy, limit: int, ids: NDArray[np.int32]) -> View:
    """What the policy sees."""

    def rows(values: bool) -> NDArray[np.float32]:
        return kv_evict.rows(cache.context.ptr, cache.seq, ids, values=values)

    pos, scores = cache.ledger.ranked(cache.whole_cells)
    return View(
        pos,
        scores,
        cache.n_prompt,
        cache.n_past,
        cache.n_predict,
        limit,
        rows(values=False) if policy.needs_keys else None,
        rows(values=True) if policy.needs_values else None,
    )
