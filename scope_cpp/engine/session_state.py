"""The state of a conversation as JSON and arrays, and back with everything checked.

Digests tell damage; here it is checked that what a file says can be at all: a conversation that
took over anything else could end the process later, in llama.cpp.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from scope_cpp.engine.cache.bounded import BoundedCache
from scope_cpp.engine.cache.ledger import Ledger, scores_shape
from scope_cpp.engine.cache.marks import Mark
from scope_cpp.engine.cache.state import CacheState, restore, snapshot
from scope_cpp.engine.cache.stats import CacheStats
from scope_cpp.engine.context import Context
from scope_cpp.engine.model import Model
from scope_cpp.engine.sampling import SamplingParams
from scope_cpp.engine.session_values import COMPUTE, from_json, to_json, typed
from scope_cpp.engine.settings import Settings
from scope_cpp.engine.sizes import conversation_policies
from scope_cpp.engine.turns import Account, Progress, Region, Turn
from scope_cpp.errors import UsageError
from scope_cpp.native import kv_evict
from scope_cpp.policies.scores.foresight import Asked

Arrays = Mapping[str, NDArray[Any]]

_KINDS = ("system", "prompt", "answer")
# what a turn says in whole numbers
_NUMBERS = ("index", "start", "n_unread", "n_last", "n_decoded")
_PARTS = ("tokens", "answer", "trimmed")
# fields of Settings that a conversation has one of
_OF_ALL = ("budget", "ctx_size", "type_k", "type_v", "flash_attn")


class Held(Protocol):
    """What of a conversation is saved (`scope_cpp.engine.conversation`)."""

    model: Model
    sampling: SamplingParams
    template: str | None
    n_predict: int | None
    stop: tuple[str, ...]

    @property
    def settings(self) -> Settings:
        """Settings from the next answer on."""

    @property
    def context(self) -> Context:
        """Its context."""

    @property
    def cache(self) -> BoundedCache:
        """Its cells."""

    def progress(self) -> Progress:
        """How far it is."""

    def take(self, progress: Progress) -> None:
        """Go on from there."""

    def close(self) -> None:
        """Free what it has."""


# writing


def export_state(conversation: Held) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """Return the state of a conversation: for the header, and as arrays."""
    state, progress = snapshot(conversation.cache), conversation.progress()
    turns, marks = progress.turns, [mark for mark, _ in state.marks]
    settings = list(dict.fromkeys(turn.settings for turn in turns))
    parts = [getattr(turn, part) for turn in turns for part in _PARTS]
    tokens = np.array([token for part in parts for token in part], np.int32)
    meta = {
        "messages": progress.messages,
        "attempts": progress.attempts,
        "accounts": [None if one is None else to_json(one) for one in progress.accounts],
        "n_queries": conversation.context.n_recorded,
        "counters": state.counters,
        "stats": to_json(state.stats),
        "settings": [to_json(one) for one in settings],
        "turns": [_turn_values(turn, settings, marks) for turn in turns],
        "marks": [_mark_values(mark, state.asked) for mark in marks],
        "row": state.ledger.row,
    }
    ledger = state.ledger
    arrays: dict[str, NDArray[Any]] = {"native": state.native, "tokens": tokens}
    arrays |= {"labels": ledger.labels, "pos": ledger.pos, "scores": ledger.scores}
    if state.asked is not None:
        parts_of = {**vars(state.asked), "read": state.asked.read.view(np.uint8)}
        arrays |= {f"ahead_{name}": part for name, part in parts_of.items()}
    for i, mark in enumerate(marks):
        if mark.scores is not None:
            arrays[f"mark{i}"] = mark.scores
    return meta, arrays


def _turn_values(turn: Turn, settings: list[Settings], marks: list[Mark]) -> dict[str, Any]:
    def number(mark: Mark | None) -> int | None:
        return next((i for i, other in enumerate(marks) if other is mark), None)

    return {
        **{name: getattr(turn, name) for name in _NUMBERS},
        "lengths": [len(getattr(turn, part)) for part in _PARTS],
        "settings": settings.index(turn.settings),
        "text": turn.text,
        "regions": [to_json(region) for region in turn.regions],
        "before": number(turn.before),
        "after": number(turn.after),
    }


def _mark_values(mark: Mark, now: Asked | None) -> dict[str, Any]:
    ahead = mark.asked
    return {
        "ahead": ahead is not None and now is not None and ahead.queries is now.queries,
        "n_past": mark.n_past,
        "counters": mark.counters,
        "stats": to_json(mark.stats),
        "intact": mark.intact,
    }


# reading


def import_state(conversation: Held, meta: dict[str, Any], arrays: Arrays) -> None:
    """Let a new conversation, with the settings that were saved, take over a state.

    Raises
    ------
    ValueError
        If it is none. The conversation is of no use then.
    UsageError, ScopeError
        If it has settings that can't be, or cells that llama.cpp refuses.
    """
    cache = conversation.cache
    native = _array(arrays, "native", np.uint8, (None,))
    _record(conversation, typed("n_queries", meta.get("n_queries"), int), native.size)
    counters = _counters(meta.get("counters"), None)
    stats = _stats(meta.get("stats"))
    row: tuple[str, ...] = typed("row", meta.get("row", ()), tuple[str, ...])
    if row != cache.ledger.row:
        raise UsageError(
            f"the session was saved by a scope-cpp whose {cache.decode_policy.name} keeps other "
            "numbers of each row in mind: open it with that scope-cpp"
        )
    ledger = _ledger(arrays, cache, n_past=counters[0])
    known = ledger.labels.size if ledger.pos.shape[0] else counters[0]
    _require(stats.cells_used == known <= cache.capacity, "cells")
    messages = _messages(meta.get("messages"))
    attempts: tuple[int, ...] = typed("attempts", meta.get("attempts"), tuple[int, ...])
    _require(all(n >= 0 for n in attempts), "attempts")
    _require(len(attempts) == sum(m["role"] == "user" for m in messages), "attempts")
    asked = _asked(arrays, cache)
    marks = [
        _mark(i, values, arrays, ledger, asked) for i, values in enumerate(_list(meta, "marks"))
    ]
    order = [mark.n_past for mark in marks]
    _require(order == sorted(order), "marks")
    turns = _turns(conversation, meta, arrays, marks)
    _require((turns[-1].stop + turns[-1].n_decoded if turns else 0) == counters[0], "turns")
    _require(all(turn.index < len(attempts) for turn in turns), "turns")
    accounts = _accounts(meta.get("accounts"), len(attempts))
    restore(
        cache,
        CacheState(
            native=native,
            places=cache.bounded,
            counters=counters,
            stats=stats,
            ledger=ledger,
            marks=tuple((mark, mark) for mark in marks),
            asked=asked,
        ),
    )
    conversation.take(Progress(messages, list(attempts), turns, accounts))


def _record(conversation: Held, n_queries: int, n_bytes: int) -> None:
    """Record as many queries as the saved context did, if the policies were others before."""
    cache, context = conversation.cache, conversation.context
    if n_queries == context.n_recorded:
        return
    # each one lies in the file, with a position and a row in every layer
    _require(context.n_recorded < n_queries <= n_bytes // 8, "queries")
    cache.set_policies(
        cache.decode_policy, cache.prefill_policy, cache.whole_cells, True, n_queries
    )


def _accounts(values: Any, n: int) -> list[Account | None]:
    """Return what each of `n` answers took; older files do not have it."""
    if values is None:
        return [None] * n
    _require(isinstance(values, list) and len(values) == n, "accounts")
    return [None if one is None else from_json(Account, one) for one in values]


def _require(holds: bool | np.bool_, what: str) -> None:
    if not holds:
        raise ValueError(f"its {what} make no sense")


def _list(meta: Mapping[str, Any], name: str) -> list[dict[str, Any]]:
    values = meta.get(name)
    if not isinstance(values, list) or not all(isinstance(value, dict) for value in values):
        raise ValueError(f"its {name} make no sense")
    return values


def _array(arrays: Arrays, name: str, kind: type, shape: Sequence[int | None]) -> NDArray[Any]:
    """Return an array of a type and shape, None for any length."""
    array = arrays.get(name)
    if array is None or array.dtype != kind or array.ndim != len(shape):
        raise ValueError(f"its {name} make no sense")
    _require(all(want in (None, n) for want, n in zip(shape, array.shape, strict=True)), name)
    return array


def _stats(values: Any) -> CacheStats:
    stats = from_json(CacheStats, values)
    _require(all(value >= 0 for value in vars(stats).values()), "statistics")
    return stats


def _counters(values: Any, n_past: int | None) -> tuple[int, ...]:
    """``BoundedCache``'s counters; the first is the length, no other can be more.

    In older files what is not scored is not weighed, and nothing else.
    """
    counters: tuple[int, ...] = typed("counters", values, tuple[int, ...])
    if len(counters) == 5:
        counters = (*counters, counters[-1])
    _require(len(counters) == 6 and all(0 <= n <= counters[0] for n in counters), "counters")
    _require(n_past in (None, counters[0]), "counters")
    return counters


def _ledger(arrays: Arrays, cache: BoundedCache, n_past: int) -> Ledger:
    n_layer, n_head, _ = cache.ledger.pos.shape
    labels = _array(arrays, "labels", np.int32, (None,))
    n = labels.size
    pos = _array(arrays, "pos", np.int32, (n_layer, n_head, n))
    scores = _scores(arrays, "scores", cache.ledger, n)
    _require(n <= cache.capacity and (n_layer > 0 or n == 0), "cells")
    if n:
        _require(labels[0] >= 0 and labels[-1] == n_past - 1, "cells")
        _require((np.diff(labels) > 0).all(), "cells")
        ordered = np.sort(pos, axis=2)
        _require((ordered[:, :, 0] >= 0).all() and (ordered[:, :, -1] < n_past).all(), "rows")
        _require((np.diff(ordered, axis=2) > 0).all(), "rows")
        _require((pos[:, :, -1] == n_past - 1).all(), "rows")
    return Ledger(labels, pos, scores, cache.ledger.row)


def _scores(arrays: Arrays, name: str, like: Ledger, n: int | None) -> NDArray[np.float32]:
    """Return scores of the numbers and heads of a ledger; `n` rows, None for any number."""
    heads = scores_shape(like.row, like.scores.shape[-3:])[:-1]
    scores = _array(arrays, name, np.float32, (*heads, n))
    _require(np.isfinite(scores).all(), name)
    return scores


def _asked(arrays: Arrays, cache: BoundedCache) -> Asked | None:
    if "ahead_queries" not in arrays:
        return None
    ptr = cache.context.ptr
    heads = kv_evict.n_layer(ptr), kv_evict.n_head(ptr)
    queries = _array(arrays, "ahead_queries", np.float16, (*heads, None, None))
    n, size = queries.shape[2:]
    _require(size == (kv_evict.head_size(ptr) if n else 1), "queries")
    totals = [_array(arrays, f"ahead_{of}", np.float32, (*heads, n)) for of in ("prompt", "output")]
    _require(bool(np.isfinite(queries).all()), "queries")
    _require(all((total < np.inf).all() for total in totals), "queries")
    read = np.ones(heads[0], np.uint8)  # in all layers, in older files
    if "ahead_read" in arrays:
        read = _array(arrays, "ahead_read", np.uint8, heads[:1])
    prompt, output = totals
    return Asked(queries, prompt, output, read != 0)


def _mark(
    i: int,
    values: Mapping[str, Any],
    arrays: Arrays,
    ledger: Ledger,
    asked: Asked | None,
) -> Mark:
    n_past = typed("marks", values.get("n_past"), int)
    intact = typed("marks", values.get("intact"), bool)
    counters = _counters(values.get("counters"), n_past)
    scores = None
    if f"mark{i}" in arrays:
        scores = _scores(arrays, f"mark{i}", ledger, None)
    if scores is not None and scores.shape[-1] != int((ledger.labels < n_past).sum()):
        _require(not intact, "marks")
    ahead = asked if typed("marks", values.get("ahead"), bool) else None
    return Mark(n_past, counters, _stats(values.get("stats")), scores, ahead, intact)


def _messages(values: Any) -> list[dict[str, str]]:
    """A system message or none, then questions and answers in turn."""
    _require(isinstance(values, list), "messages")
    for i, message in enumerate(values):
        _require(isinstance(message, dict) and message.keys() == {"role", "content"}, "messages")
        _require(all(type(text) is str for text in message.values()), "messages")
        _require(i == 0 or message["role"] != "system", "messages")
    talk = [message["role"] for message in values if message["role"] != "system"]
    _require(talk == ["user", "assistant"] * (len(talk) // 2), "messages")
    return list(values)


def _settings(values: Any, conversation: Held) -> Settings:
    """Settings of a turn: the conversation's own object where they are the same."""
    here = conversation.settings
    same = {name: getattr(here, name) for name in (*COMPUTE, *_OF_ALL)}
    saved = replace(from_json(Settings, values), **same)
    conversation_policies(saved, conversation.cache.capacity, conversation.n_predict)
    return here if saved == here else saved


def _turns(
    conversation: Held, meta: dict[str, Any], arrays: Arrays, marks: list[Mark]
) -> list[Turn]:
    found = _array(arrays, "tokens", np.int32, (None,))
    _require(((found >= 0) & (found < conversation.model.n_vocab)).all(), "tokens")
    tokens: list[int] = found.tolist()
    settings = [_settings(values, conversation) for values in _list(meta, "settings")]
    turns: list[Turn] = []
    start = at = 0
    for values in _list(meta, "turns"):
        lengths = typed("turns", values.get("lengths"), tuple[int, ...])
        _require(len(lengths) == len(_PARTS) and all(n >= 0 for n in lengths), "turns")
        _require(at + sum(lengths) <= len(tokens), "turns")
        parts = []
        for n in lengths:
            parts.append(tokens[at : at + n])
            at += n
        turn = _turn(values, parts, settings, marks)
        _require(turn.start == start and turn.tokens != [], "turns")
        _require(not turns or turns[-1].index <= turn.index, "turns")
        start = turn.stop + turn.n_decoded
        turns.append(turn)
    _require(at == len(tokens), "turns")
    return turns


def _turn(
    values: Mapping[str, Any], parts: list[list[int]], settings: list[Settings], marks: list[Mark]
) -> Turn:
    def pick(name: str, among: Sequence[Any]) -> Any:
        i = typed("turns", values.get(name), int)
        _require(0 <= i < len(among), "turns")
        return among[i]

    tokens, answer, trimmed = parts
    numbers = {name: typed("turns", values.get(name), int) for name in _NUMBERS}
    _require(all(n >= 0 for n in numbers.values()), "turns")
    turn = Turn(
        settings=pick("settings", settings),
        text=typed("turns", values.get("text"), str),
        regions=[from_json(Region, region) for region in _list(values, "regions")],
        before=None if values.get("before") is None else pick("before", marks),
        after=None if values.get("after") is None else pick("after", marks),
        tokens=tokens,
        answer=answer,
        trimmed=trimmed,
        **numbers,
    )
    _require(max(turn.n_unread, turn.n_last) <= len(turn.tokens), "turns")
    _require(turn.n_decoded <= len(turn.answer), "turns")
    _require(turn.before is None or turn.before.n_past == turn.start, "marks")
    _require(turn.after is None or turn.after.n_past == turn.stop, "marks")
    at = turn.start
    for region in turn.regions:
        _require(region.kind in _KINDS and region.turn >= 0, "regions")
        _require(at <= region.start < region.stop <= turn.stop, "regions")
        at = region.stop
    return turn
