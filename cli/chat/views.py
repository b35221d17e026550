"""What the commands of a chat show: lines of text, from what the engine says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import TYPE_CHECKING

from scope_cpp.engine.budget import format_bytes
from scope_cpp.printable import printable

from ..settings_table import WIDTH, settings_table, value
from ..terminal import table

if TYPE_CHECKING:
    from scope_cpp.engine.conversation import Conversation, Pool
    from scope_cpp.engine.generate import Stats

_NARROW = 44
_PREVIEW = 60


def cache(conversation: Conversation, width: int) -> str:
    """Pools with their tokens, cells and bytes, and what they sum up to."""
    pools, stats = conversation.pools(), conversation.stats
    rows = [(pool_name(pool), pool.n_tokens, pool.n_cells, pool.bytes) for pool in pools]
    total = sum(pool.n_tokens for pool in pools), sum(pool.n_cells for pool in pools)
    rows.append(("all", *total, sum(pool.bytes for pool in pools)))
    if width < _NARROW:
        lines = [f"{name}: {n} tokens, {c} cells, {format_bytes(b)}" for name, n, c, b in rows]
    else:
        lines = [f"{'':<14}{'tokens':>8}{'cells':>8}{'size':>12}"]
        lines += [f"{name:<14}{n:>8}{c:>8}{format_bytes(b):>12}" for name, n, c, b in rows]
    lines += [
        f"capacity {stats.cells_capacity} cells, {stats.cells_used} used, "
        f"{stats.cells_peak} at most",
        f"llama.cpp allocated {stats.cells_allocated} cells, {format_bytes(stats.kv_bytes)}",
    ]
    if conversation.account is not None:
        lines.append(f"last turn: {stats.evicted} cells evicted in {stats.selections} selections")
    return "\n".join(lines)


def pool_name(pool: Pool) -> str:
    """``system``, or the kind and the turn, counted from 1."""
    return pool.kind if pool.kind == "system" else f"{pool.kind} {pool.turn + 1}"


def stats(conversation: Conversation) -> str:
    """Statistics of the answer that the conversation ends with, and of the memory as it is now."""
    values = conversation.stats
    return table([*_of_answer(conversation), *_of_memory(values)]).rstrip("\n")


def _of_answer(conversation: Conversation) -> list[tuple[str, str]]:
    """What the last answer took that was not taken back, if there is one."""
    asked = [message["content"] for message in conversation.messages if message["role"] == "user"]
    if not asked:
        return [("answer", "there is none: nothing was asked, or all of it was taken back")]
    if conversation.account is None:
        return [("answer", "not known: the session's file does not say what it took")]
    values = conversation.stats
    rows = [("message", preview(asked[-1]))]
    read = [f"{values.n_prompt} tokens"] if values.n_prompt else []
    read += [f"{values.n_again} tokens read again"] if values.n_again else []
    if read:
        rows.append(("prompt", f"{', '.join(read)} in {values.prompt_seconds:.2f} s"))
        rows += _rate(values.prompt_per_second)
    else:
        rows.append(("prompt", "it was there already and is not read again"))
    rows.append(("answer", f"{values.n_generated} tokens in {values.generation_seconds:.2f} s"))
    rows += _rate(values.generated_per_second)
    if not values.selections:
        return [*rows, ("evicted", "nothing")]
    seconds = {"score": values.score_seconds, "select": values.select_seconds}
    seconds["move"] = values.move_seconds
    return [
        *rows,
        ("evicted", f"{values.evicted} cells in {values.selections} selections"),
        ("attention loss", f"{values.attention_loss:.2%}"),
        ("eviction took", ", ".join(f"{name} {s:.3f} s" for name, s in seconds.items())),
    ]


def _rate(per_second: float) -> list[tuple[str, str]]:
    """Return nothing for what took no time: that has no rate."""
    return [("", f"{per_second:.1f} tokens per second")] if per_second else []


def _of_memory(values: Stats) -> list[tuple[str, str]]:
    parts = {
        "KV": values.kv_bytes,
        "windows and states": values.fixed_bytes,
        "computing": values.compute_bytes,
        "queries": values.query_bytes,
        "choosing": values.selection_bytes,
    }
    return [
        ("cells now", f"{values.cells_used} of {values.cells_capacity}"),
        ("memory now", format_bytes(values.memory_bytes)),
        *[("", f"{name} {format_bytes(n)}") for name, n in parts.items() if n],
    ]


def settings(conversation: Conversation, width: int = WIDTH) -> str:
    """The settings in force."""
    own = {"n_predict": conversation.n_predict, "stop": list(conversation.stop)}
    return settings_table(_in_force(conversation) | own, width)


def policy(conversation: Conversation) -> str:
    """The policy in force with all its options."""
    values = _in_force(conversation)
    return (
        f"{values['policy']} {value(values['options'])} prefill={values['prefill']} "
        f"granularity={values['granularity']}"
    )


def _in_force(conversation: Conversation) -> dict[str, object]:
    from scope_cpp.engine.in_force import in_force

    cache = conversation.cache
    return in_force(
        conversation.settings,
        cache.decode_policy,
        cache.prefill_policy,
        cache.capacity,
        conversation.context,
    )


def budget(conversation: Conversation) -> str:
    """How many cells there are, how many are used, and what they take."""
    stats, settings = conversation.stats, conversation.settings
    return (
        f"{stats.cells_used} of {stats.cells_capacity} cells are used; "
        f"the cache takes {format_bytes(stats.kv_bytes)} (K {settings.type_k}, V {settings.type_v})"
    )


def sampling(conversation: Conversation) -> str:
    """How the next token is chosen."""
    params = conversation.sampling
    rows = [(item.name.replace("_", "-"), getattr(params, item.name)) for item in fields(params)]
    rows += [("n-predict", conversation.n_predict), ("stop", list(conversation.stop))]
    return table((name, value(chosen)) for name, chosen in rows).rstrip("\n")


def messages(all_messages: Sequence[dict[str, str]]) -> str:
    """All messages, as they are."""
    blocks = (f"[{message['role']}]\n{printable(message['content'])}" for message in all_messages)
    return "\n\n".join(blocks)


def tokens(conversation: Conversation, text: str) -> str:
    """The tokens of a text, each with its number."""
    model = conversation.model
    numbers = model.tokenize(text, add_special=False)
    pieces = (model.token_to_piece(n).decode("utf-8", errors="replace") for n in numbers)
    shown = " ".join(f"{n}:{piece!r}" for n, piece in zip(numbers, pieces, strict=True))
    return f"{shown}\n{len(numbers)} {'token' if len(numbers) == 1 else 'tokens'}"


def preview(text: str) -> str:
    """The beginning of a text in one line."""
    line = printable(" ".join(text.split()))
    return line if len(line) <= _PREVIEW else line[: _PREVIEW - 1] + "…"
