"""All of a bounded cache that another one can take over, and taking it over."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from scope_cpp.engine.cache.ledger import Ledger
from scope_cpp.engine.cache.marks import Mark
from scope_cpp.engine.cache.stats import CacheStats
from scope_cpp.engine.context import Context
from scope_cpp.engine.interrupts import whole_step
from scope_cpp.errors import ScopeError
from scope_cpp.native import kv_evict
from scope_cpp.policies.scores.foresight import Asked

if TYPE_CHECKING:
    from scope_cpp.engine.cache.bounded import BoundedCache


@dataclass(frozen=True)
class CacheState:
    """All of a cache but its capacity and policies; see `snapshot`.

    Attributes
    ----------
    native
        The cells, as the native side saves them.
    places
        Whether `native` has the cells' places and the recorded queries too.
    counters
        ``n_past``, ``n_prompt``, ``n_prompt_cells``, the tokens since the last selection, the
        queries that are not scored yet, and the cells that are not weighed ahead.
    stats, ledger
        As of the cache.
    marks
        The marks, each with a copy of what it was.
    asked
        The prompt's queries that weigh the output.
    """

    native: NDArray[np.uint8]
    places: bool
    counters: tuple[int, ...]
    stats: CacheStats
    ledger: Ledger
    marks: tuple[tuple[Mark, Mark], ...]
    asked: Asked | None = None


def snapshot(cache: BoundedCache, places: bool = True) -> CacheState:
    """Return what a cache of the same model needs to go on; it stays as it is here.

    With `places` it goes on bit by bit, in a context of the same size. Without, cells may come
    to lie elsewhere, and no query is known any more: their attention is scored now.
    """
    if not places:
        cache.settle()
    cache.sync()
    counters = cache.counters
    return CacheState(
        native=_read_cells(cache.context, cache.seq, places and cache.bounded),
        places=places and cache.bounded,
        counters=counters if places else (*counters[:-2], 0, 0),
        stats=replace(cache.stats),
        ledger=replace(cache.ledger),
        marks=tuple((mark, replace(mark)) for mark in cache.marks.all),
        asked=cache.scorer.foresight.asked,
    )


def restore(cache: BoundedCache, state: CacheState) -> None:
    """Take over a `state`, in place of all that is here but capacity and policies.

    Raises
    ------
    ScopeError
        If its cells are none of this model, or have no room here: the cache is as it was.
        Or if they are not those of its ledger: nothing is right then but to `BoundedCache.clear`.
    """
    with whole_step():
        _write_cells(cache.context, cache.seq, state.native, state.places)
        if cache.bounded and not state.places:
            kv_evict.forget(cache.context.ptr, cache.seq)
        labels, _, _ = kv_evict.cells(cache.context.ptr, cache.seq)
        if not np.array_equal(labels, state.ledger.labels):
            raise ScopeError("the cells are not those that the rest of the state tells of")
        cache.ledger = replace(state.ledger)
        if not state.places and cache.ledger.dead.any():
            _, ids, _ = kv_evict.cells(cache.context.ptr, cache.seq)
            kv_evict.set_dead(cache.context.ptr, cache.seq, ids, cache.ledger.dead)
        cache.counters, cache.logits_at = state.counters, -1
        cache.stats = replace(state.stats)
        for mark, was in state.marks:
            mark.intact, mark.scores = was.intact, was.scores
            mark.asked, mark.beside = was.asked, was.beside
        cache.marks.keep([mark for mark, _ in state.marks])
        cache.scorer.foresight.asked = state.asked


def _read_cells(context: Context, seq: int, places: bool) -> NDArray[np.uint8]:
    """Return the cells of a sequence, with their places and the recorded queries or without."""
    if places:
        return np.frombuffer(kv_evict.state_get(context.ptr, seq), np.uint8)
    return context.read_state(seq)


def _write_cells(context: Context, seq: int, native: NDArray[np.uint8], places: bool) -> None:
    """Replace the cells of a sequence by those of `_read_cells`."""
    if places:
        kv_evict.state_set(context.ptr, seq, native)
    else:
        context.write_state(seq, native)
