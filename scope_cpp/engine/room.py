"""Who gives way in a conversation when a turn has no room.

Cells go in this order: finished answers, the oldest first; with a prefill policy that drops cells,
rows of earlier prompts, chosen by it; nothing else, and never those of the system prompt. A policy
that ranks the prompt too chooses among all but these itself; one that keeps messages
(`DecodePolicy.keeps_messages`) gives up none of a message, while these take at most half.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from scope_cpp.engine.budget import usual_room
from scope_cpp.engine.cache.bounded import BoundedCache
from scope_cpp.engine.turns import (
    Region,
    Turn,
    any_of,
    common_prefix,
    give_way,
    n_rows,
    thin_prompts,
    ways_out,
)
from scope_cpp.errors import NoRoom
from scope_cpp.policies import DecodePolicy


def answer_pool(decode: DecodePolicy, n_predict: int | None) -> int:
    """Cells that an answer needs besides those that are there."""
    if decode.name == "full" or decode.ranks_prompt:
        return 1
    return decode.capacity(0, n_predict)


def make_way(cache: BoundedCache, turns: Sequence[Turn], start: int, needed: int) -> bool:
    """Free cells for `needed` tokens.

    Parameters
    ----------
    cache, turns
        The cells, and what they hold.
    start
        Position that the turn begins at which is read now; its attention says what goes.
    needed
        Cells that must be free then.

    Returns
    -------
    bool
        False if the prompt must be thinned as it is read.

    Raises
    ------
    NoRoom
        If nothing more may give way; nothing was evicted then.
    """
    missing = cache.stats.cells_used + needed - cache.capacity
    if missing <= 0:
        return True
    answers, prompts = _may_go(cache, turns)
    pos = cache.positions()
    n_answers = n_rows(pos, answers) if pos.size else 0
    n_prompts = n_rows(pos, prompts) if pos.size else 0
    thins = cache.prefill_policy.name != "full"
    if missing > n_answers and not thins:
        require_room(cache, turns, needed, n_answers)
    if n_answers:
        n = min(missing, n_answers)
        cache.evict(lambda pos, scores: give_way(pos, scores, answers, n))
        missing -= n
    if missing <= 0:
        return True
    if missing < n_prompts:
        _thin(cache, turns, start, needed)
        return True
    return False


def require_room(cache: BoundedCache, turns: Sequence[Turn], needed: int, n_free: int = 0) -> None:
    """Refuse the last of these turns if it needs more cells than can be had.

    Raises
    ------
    NoRoom
        If the free cells, and `n_free` more, are not enough.
    """
    there = cache.capacity - cache.stats.cells_used + n_free
    if cache.decode_policy.ranks_prompt:
        there = cache.capacity - int(cache.holds(np.arange(cache.n_past, dtype=np.int32)).sum())
    if needed > there:
        own = [turns[-1]] if cache.decode_policy.ranks_prompt else turns  # others give way anyway
        ways = [*ways_out(own, needed - there), "give a larger --budget"]
        if cache.prefill_policy.name == "full" and not cache.decode_policy.ranks_prompt:
            ways.append("let old prompts give way (--prefill snapkv)")
        raise NoRoom(
            f"this turn needs {needed} cells for its prompt and its answer, {there} of "
            f"{cache.capacity} can be had: {any_of(ways)}"
        )


def to_hold(turns: Sequence[Turn], capacity: int, messages: bool) -> NDArray[np.int32]:
    """What no policy that ranks all rows may give up; see `BoundedCache.held`.

    Parameters
    ----------
    turns
        The last one is about to be read, or was.
    capacity
        Cells of the conversation.
    messages
        Whether messages of the user are held, too: the latest ones, as many as fit with the system
        prompt into half of the cells, and into those that the last turn leaves.
    """
    regions = [region for turn in turns for region in turn.regions]
    held = [region for region in regions if region.kind == "system"]
    if messages and turns:
        left = min(capacity // 2, capacity - len(turns[-1].tokens) - 1)
        left -= sum(region.stop - region.start for region in held)
        for region in reversed(regions):
            n = region.stop - region.start
            if region.kind == "prompt" and n <= left:
                held.append(region)
                left -= n
    spans = sorted((region.start, region.stop) for region in held)
    return np.array(spans, np.int32).reshape(-1)


def check_opening(
    openings: Sequence[Sequence[int]],
    has_system: bool,
    capacity: int,
    decode: DecodePolicy,
    n_predict: int | None,
) -> None:
    """Refuse a system prompt without room for itself, a message and an answer.

    Parameters
    ----------
    openings
        See `transcript.openings`.
    has_system
        Whether there is a system message.
    capacity, decode, n_predict
        Of the conversation.

    Raises
    ------
    NoRoom
        If it has none.
    """
    n, longest = common_prefix(*openings), max(map(len, openings))
    pool = answer_pool(decode, n_predict)
    needed = longest + pool
    if needed > capacity:
        advised = longest + max(pool, usual_room(n_predict))
        what = "the system prompt" if has_system else "what the template puts first"
        raise NoRoom(
            f"{what} takes {n} cells, with the shortest message and the pool of an answer "
            f"{needed}; the budget is {capacity}: give --budget {advised} or more, or a "
            "shorter text"
        )


def check_shrink(
    cache: BoundedCache, turns: Sequence[Turn], capacity: int, decode: DecodePolicy
) -> None:
    """Refuse a budget that what may not give way does not fit into.

    Raises
    ------
    NoRoom
        If it does not.
    """
    missing = cache.stats.cells_used - capacity
    if missing <= 0 or decode.ranks_prompt:
        return
    answers, prompts = _may_go(cache, turns)
    pos = cache.positions()
    n = n_rows(pos, answers) if pos.size else 0
    if pos.size and cache.prefill_policy.name != "full":
        n += max(0, n_rows(pos, prompts) - 1)
    if missing > n:
        stays = cache.stats.cells_used - n
        raise NoRoom(
            f"{stays} cells may not give way: give --budget {stays + usual_room(None)} or more, "
            "begin anew (/clear), or let old prompts give way (--prefill snapkv)"
        )


def shrink(cache: BoundedCache, turns: Sequence[Turn], capacity: int, decode: DecodePolicy) -> None:
    """Let cells give way until a smaller budget holds the rest; see `check_shrink`."""
    cache.capacity = capacity
    if decode.ranks_prompt:
        cache.decode_policy = decode
        cache.held = to_hold(turns, capacity, decode.keeps_messages)
        cache.make_room_by_policy(0)
    else:
        make_way(cache, turns, cache.n_past, 0)


def _thin(cache: BoundedCache, turns: Sequence[Turn], start: int, needed: int) -> None:
    """Let the prefill policy free cells of prompts for `needed` tokens."""
    missing = cache.stats.cells_used + needed - cache.capacity
    if missing <= 0:
        return
    _, prompts = _may_go(cache, turns)
    prefill = cache.prefill_policy
    seen = cache.observed(prefill, cache.n_past - start)
    cache.evict(lambda pos, _: thin_prompts(prefill, pos, seen, prompts, missing))


def _may_go(cache: BoundedCache, turns: Sequence[Turn]) -> tuple[list[Region], list[Region]]:
    """Answers and prompts that may give way now, the oldest first.

    The newest row of all stays.
    """
    newest = cache.n_past - 1
    regions = [r for t in turns for r in t.all_regions()]
    ends = [replace(r, stop=min(r.stop, newest)) for r in regions if r.start < newest]
    answers = [r for r in ends if r.kind == "answer"]
    if cache.decode_policy.name == "full":
        answers = []
    return answers, [r for r in ends if r.kind == "prompt"]
