"""Going back in a bounded cache: to a mark, or by some tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from scope_cpp.engine.cache.marks import Beside, Mark
from scope_cpp.engine.cache.scorer import fixed_window
from scope_cpp.engine.interrupts import whole_step
from scope_cpp.errors import ScopeError

if TYPE_CHECKING:
    from scope_cpp.engine.cache.bounded import BoundedCache


def mark(cache: BoundedCache, beside: Beside | None = None) -> Mark:
    """Make a mark here; of older ones all but the latest lose their scores.

    Parameters
    ----------
    beside
        Windows and recurrent states to go back with, if not those of this point.
    """
    cache.sync()
    scores = cache.ledger.scores.copy()
    mark = Mark(cache.n_past, cache.counters, replace(cache.stats), scores)
    mark.asked = cache.scorer.foresight.asked
    mark.beside = beside or cache.beside()
    cache.marks.add(mark)
    return mark


def return_to(
    cache: BoundedCache, mark: Mark, tail: Sequence[int] = (), *, logits: bool = False
) -> bool:
    """Forget all after a mark; later marks are worthless then.

    Parameters
    ----------
    mark
        A mark of this cache.
    tail
        The last tokens before the mark, which were decoded as one batch. They are decoded again
        where what lies beside the cells is known before them only.
    logits
        Decode them again in any case, for the logits at their end.

    Returns
    -------
    bool
        False if rows from before the mark were evicted or moved since, or if what it had is
        no longer known. Nothing is right then but to clear the cache and to read all tokens anew.
    """
    if not stands(cache, mark) or mark.scores is None:
        return False
    has_logits = cache.n_past == mark.n_past == cache.logits_at
    with whole_step():
        if (logits and not has_logits) or not _cut(cache, mark.n_past, mark.beside):
            cache.n_past = mark.n_past - len(tail)
            if not _cut(cache, cache.n_past, mark.beside):
                return False
            cache.sync()
            cache.compute(tail)
        cache.sync()
        cache.ledger.scores = mark.scores.copy()
        cache.counters = mark.counters
        ahead = mark.asked
        cache.scorer.foresight.asked = ahead and ahead.before_output()
        peak = cache.stats.cells_peak
        cache.stats = replace(mark.stats, cells_peak=peak)
        cache.marks.forget_after(mark.n_past)
    return _has_window(cache)


def stands(cache: BoundedCache, mark: Mark) -> bool:
    """Whether rows from before a mark are as they were, and what it had is known."""
    begins_output = mark.n_past == mark.counters[1]
    foreseen = mark.asked is not None or not cache.foresees
    return mark.intact and mark.scores is not None and (foreseen or not begins_output)


def forget_after(cache: BoundedCache, n_past: int) -> bool:
    """Forget the tokens from position `n_past` on, whatever was evicted before it meanwhile.

    Returns
    -------
    bool
        False, and nothing is changed, if rows of these tokens were moved to older cells.
    """
    if not can_forget(cache, n_past):
        return False
    old = cache.ledger.labels < n_past
    with whole_step():
        if not _cut(cache, n_past, cache.marks.beside(n_past)):
            return False
        cache.sync()
        n_gone, cache.n_past = cache.n_past - n_past, n_past
        cache.stats.cells_used = cache.ledger.labels.size if old.size else n_past
        cache.since = cache.scorer.unscored = 0
        cache.scorer.unweighed = max(0, cache.scorer.unweighed - n_gone)
        cache.marks.forget_after(n_past)
    return True


def can_forget(cache: BoundedCache, n_past: int) -> bool:
    """Whether no row of the tokens from position `n_past` on was moved to an older cell."""
    cache.sync()
    return bool((cache.ledger.pos[:, :, cache.ledger.labels < n_past] < n_past).all())


def rollback(cache: BoundedCache, n_tokens: int) -> None:
    """Forget the last `n_tokens` tokens.

    Raises
    ------
    ScopeError
        If one of them, or a token before them that must be the newest again, was evicted or
        has been moved: only tokens of the recent window can be taken back.
    """
    n_past = cache.n_past - n_tokens
    cache.sync()
    ledger = cache.ledger
    last = ledger.labels >= n_past - 1
    intact = (ledger.pos[:, :, last] == ledger.labels[last]).all()
    if n_tokens < 0 or int(last.sum()) != n_tokens + 1 or not intact:
        raise ScopeError(f"{n_tokens} tokens can't be taken back: some were evicted")
    if not cache.context.remove(cache.seq, n_past):
        raise ScopeError(f"{n_tokens} tokens can't be taken back: a window or a state is past them")
    cache.n_past = n_past
    cache.stats.cells_used -= n_tokens
    cache.since = max(0, cache.since - n_tokens)
    cache.scorer.unscored = max(0, cache.scorer.unscored - n_tokens)
    cache.scorer.unweighed = max(0, cache.scorer.unweighed - n_tokens)
    cache.sync()


def rollback_unselected(cache: BoundedCache, n_tokens: int) -> None:
    """Forget the last `n_tokens` tokens if no selection was made since.

    Raises
    ------
    ScopeError
        If one was, or as `rollback` does.
    """
    if cache.bounded and n_tokens > cache.since:
        raise ScopeError(f"{n_tokens} tokens can't be taken back: a selection weighed them")
    rollback(cache, n_tokens)


def _cut(cache: BoundedCache, n_past: int, beside: Beside | None) -> bool:
    """Take the tokens from a position on away, with what lay beside the cells there."""
    if cache.context.remove(cache.seq, n_past):
        return True
    if beside is None or beside.n_past != n_past:
        return False
    cache.context.return_to(cache.seq, n_past, beside.data)
    return True


def _has_window(cache: BoundedCache) -> bool:
    """Whether the queries are recorded that a policy that ranks all rows may ask for soon."""
    if not cache.bounded or not cache.decode_policy.ranks_prompt:
        return True
    window = min(fixed_window(cache.decode_policy), cache.n_past)
    return cache.scorer.n_recorded() >= window
