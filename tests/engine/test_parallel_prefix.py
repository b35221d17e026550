"""Prompts that begin alike: computed once, stored once, and no row notices."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from scope_cpp.engine.model import Model
from scope_cpp.engine.parallel import ParallelEngine, Request
from scope_cpp.engine.parallel.prefixes import LEAST, Prefixes
from scope_cpp.native import kv_evict
from tests.conftest import Tiny
from tests.engine.drive import random_tokens
from tests.engine.rows import alone, drain, engine, n_used, request, run, tokens_of

COMMON = random_tokens(100, seed=50)
# rounding differs beside others, and in f16 it may turn a choice: see docs/serve.md
EXACT: dict[str, Any] = {"type_k": "f32", "type_v": "f32", "flash_attn": "off"}

KEEPING: dict[str, dict[str, Any]] = {
    "scope-slide": {"policy": "scope-slide", "options": ("interval=5",)},
    "scope-adaptive": {"policy": "scope-adaptive"},
    "scope-discontinuous": {"policy": "scope-discontinuous"},
    "scope-foresight": {"policy": "scope-foresight", "options": ("interval=auto", "ahead=16")},
    "full": {"policy": "full"},
}
# they may give up cells of the prompt, and read none of its attention
TOUCHING: dict[str, dict[str, Any]] = {
    "scope-retrieval": {"policy": "scope-retrieval", "options": ("ahead=16",)},
    "streaming-llm": {"policy": "streaming-llm"},
}


@pytest.fixture(scope="module")
def model(tiny: Tiny) -> Iterator[Model]:
    with Model.load(tiny()) as model:
        yield model


def rows_alike(n: int, n_common: int = 100, **fields: Any) -> list[Request]:
    """Rows whose prompts have the first `n_common` of 120 tokens in common."""
    chosen = {"budget": 160, "n_predict": 80, **fields}
    if chosen.get("policy") == "full":
        chosen["budget"] = None
    return [
        request(COMMON[:n_common] + random_tokens(120 - n_common, seed=i), **chosen)
        for i in range(n)
    ]


def n_read(made: ParallelEngine, row: Request, key: object) -> int:
    """Tokens of a prompt that are decoded before its first token comes."""
    decoded: list[int] = []
    context = made._cells.context
    was = context.decode_rows
    context.decode_rows = lambda rows: (decoded.append(len(rows)), was(rows))[1]  # type: ignore
    made.submit(row, key)
    while not any(event.key == key for event in made.step()):
        pass
    context.decode_rows = was  # type: ignore[method-assign]
    return sum(decoded)


@pytest.mark.parametrize("kind", KEEPING)
def test_rows_that_share_write_as_if_alone(model: Model, kind: str) -> None:
    rows = rows_alike(5, **EXACT, **KEEPING[kind])
    shared: list[int] = []
    with engine(model, 3, 512, **EXACT) as made:
        for i, row in enumerate(rows):
            made.submit(row, i)

        def watch() -> None:
            cells = sum(row.cache.stats.cells_used for row in made._running)
            shared.append(cells - n_used(made))

        said = drain(made, watch)
        assert n_used(made) == 0
        assert made.n_evicted > 50 or kind == "full"
    assert max(shared) == 2 * 100  # three rows have them, and they are there once
    for i, row in enumerate(rows):
        assert tokens_of(said[i]) == tokens_of(alone(model, row))
        stats = said[i][-1].response.stats  # type: ignore[union-attr]
        assert (stats.n_prompt, stats.n_shared) == (120, 100 if i else 0)


@pytest.mark.parametrize("type_k", ["f16", "q8_0"])
@pytest.mark.parametrize("flash_attn", ["on", "off"])
def test_copies_are_the_same_bits(model: Model, type_k: str, flash_attn: str) -> None:
    """In other cells; V lies transposed without flash attention."""
    dials = {"type_k": type_k, "flash_attn": flash_attn}
    rows = rows_alike(2, **dials, **TOUCHING["scope-retrieval"])
    with engine(model, 2, 512, **dials) as made:
        made.submit(rows[0], 0)
        while made.caches == [] or made.caches[0].n_past < 120:
            made.step()
        made.submit(rows[1], 1)
        made.step()
        first, second = (cache.seq for cache in made.caches)
        ptr = made.context.ptr
        ids = [kv_evict.cells(ptr, seq)[1][:100] for seq in (first, second)]
        assert not set(ids[0]) & set(ids[1])
        for values in (False, True):
            held = [
                kv_evict.rows(ptr, seq, cells, values=values)
                for seq, cells in zip((first, second), ids, strict=True)
            ]
            assert np.array_equal(*held) and held[0].any()


@pytest.mark.parametrize("kind", TOUCHING)
def test_rows_that_copy_write_as_if_alone(model: Model, kind: str) -> None:
    rows = rows_alike(5, **EXACT, **TOUCHING[kind])
    with engine(model, 3, 512, **EXACT) as made:
        for i, row in enumerate(rows):
            made.submit(row, i)

        def watch() -> None:
            cells = [set(kv_evict.cells(made.context.ptr, r.cache.seq)[1]) for r in made._running]
            assert sum(map(len, cells)) == len(set().union(*cells)) == n_used(made)

        said = drain(made, watch)
        assert n_used(made) == 0 and made.n_evicted > 50
    for i, row in enumerate(rows):
        assert tokens_of(said[i]) == tokens_of(alone(model, row))
    # each newcomer finds one that was not touched yet, or none
    known = [events[-1].response.stats.n_shared for events in said.values()]  # type: ignore[union-attr]
    assert known[:3] == [0, 100, 100] and set(known) <= {0, 100}


@pytest.mark.parametrize("kind", TOUCHING)
def test_copies_are_made_while_there_is_room_and_cells_move_else(model: Model, kind: str) -> None:
    """What rests is there for the next one, or goes over to the row, which may give it up."""
    rows = rows_alike(3, **TOUCHING[kind])
    for n_cells, left in ((300, 120), (270, 100), (250, 0), (160, 0)):
        with engine(model, 1, n_cells, prefix_cells=200) as made:
            made.submit(request(rows[0].prompt, 1, policy="scope-slide"), "first")
            drain(made)
            assert n_used(made) == 120
            assert n_read(made, rows[1], 1) == 20
            said = drain(made)[1]
            # beside the 160 cells of the row, and the 100 that it copies, there may be no room
            assert n_used(made) == left
            assert tokens_of(said) == tokens_of(alone(model, rows[1]))[1:]
            stats = said[-1].response.stats  # type: ignore[union-attr]
            assert stats.evicted > 0 and stats.n_shared == 100


def test_a_row_without_eviction_rests_whatever_its_policy(model: Model) -> None:
    """So a conversation goes on where it was: the answer is there too."""
    talk = random_tokens(60, seed=1)
    fields = {"n_predict": 40, "budget": 120, "policy": "scope-retrieval", "options": ("ahead=8",)}
    with engine(model, 1, 128, prefix_cells=128) as made:
        answer = tokens_of(run(made, [request(talk, **fields)])[0])
        assert n_used(made) == 60 + 39
        follows = request([*talk, *answer, *random_tokens(9, seed=2)], **fields)  # type: ignore[list-item]
        assert n_read(made, follows, "next") == 1 + 9
        said = drain(made)["next"]
        assert said[-1].response.stats.evicted > 0  # type: ignore[union-attr]
        assert n_used(made) == 0, "what is left of it is no beginning of anything"
    assert tokens_of(said) == tokens_of(alone(model, follows))[1:]


def test_rows_of_all_kinds_beside_each_other(model: Model) -> None:
    """Nobody shares what somebody else may give up, and what is shared goes over to nobody."""
    kinds = [*KEEPING.values(), *TOUCHING.values()]
    rows = [
        row for i, kind in enumerate(kinds * 2) for row in rows_alike(1 + i % 2, **EXACT, **kind)
    ]
    begun = [COMMON[: 40 + 10 * (i % 6)] for i in range(len(rows))]
    rows = [
        replace(row, prompt=(*start, *random_tokens(120 - len(start), seed=i)))
        for i, (row, start) in enumerate(zip(rows, begun, strict=True))
    ]
    with engine(model, 4, 700, prefix_cells=300, **EXACT) as made:
        said = run(made, rows)
        assert n_used(made) <= 300
    known = [events[-1].response.stats.n_shared for events in said]  # type: ignore[union-attr]
    assert sum(n > 0 for n in known) > len(rows) // 2
    for events, row in zip(said, rows, strict=True):
        assert tokens_of(events) == tokens_of(alone(model, row))


def test_a_prompt_that_is_read_again_reads_what_is_new(model: Model) -> None:
    rows = rows_alike(3)
    with engine(model, 2, 512, prefix_cells=256, policy="scope-slide") as made:
        rows = rows_alike(3, policy="scope-slide")
        assert n_read(made, rows[0], 0) == 120
        drain(made)
        assert n_used(made) == 120  # it rests
        assert n_read(made, rows[1], 1) == 20
        drain(made)
        assert n_used(made) == 120 + 20
        # the same one once more: its last token alone gives the logits
        assert n_read(made, rows[0], 2) == 1
        drain(made)
        assert n_used(made) == 140
        assert n_read(made, request(random_tokens(30, seed=1), 5), 3) == 30


def test_a_policy_that_asks_the_prompt_again_reads_its_end(model: Model) -> None:
    """Its queries are known to who decodes it; so the row writes the same as alone."""
    rows = rows_alike(3, policy="scope-foresight", options=("ahead=30",))
    with engine(model, 2, 512, prefix_cells=256) as made:
        assert n_read(made, rows[0], 0) == 120
        said = drain(made)[0]
        assert n_read(made, rows[0], 1) == 30
        again = drain(made)[1]
        assert n_read(made, rows[1], 2) == 30
        assert (
            tokens_of(said)[-60:]
            == tokens_of(again)[-60:]
            == tokens_of(alone(model, rows[0]))[-60:]
        )


@pytest.mark.parametrize("fields", [{"policy": "h2o"}, {"prefill": "snapkv", "budget": 110}])
def test_who_reads_the_attention_of_the_prompt_reads_all_of_it(
    model: Model, fields: dict[str, Any]
) -> None:
    keeping = rows_alike(2, policy="scope-slide")[0]
    touching = rows_alike(2, **fields)[1]
    with engine(model, 2, 512, prefix_cells=256, policy="scope-slide") as made:
        made.submit(keeping, 0)
        drain(made)
        assert n_read(made, touching, 1) == 120
        said = drain(made)
        assert n_used(made) == 120
    assert tokens_of(said[1]) == tokens_of(alone(model, touching))[-len(said[1]) :]


def test_eviction_never_touches_what_rests(model: Model) -> None:
    rows = rows_alike(4, policy="scope-slide", options=("interval=3",))
    with engine(model, 2, 400, prefix_cells=200, policy="scope-slide") as made:
        made.submit(rows[0], 0)
        drain(made)
        (seq,) = made._cells._prefixes.resting
        ptr = made._cells.context.ptr
        before = kv_evict.cells(ptr, seq)
        keys = kv_evict.rows(ptr, seq, before[1])
        said = run(made, rows[1:])
        assert all(events[-1].response.stats.evicted > 20 for events in said)  # type: ignore
        after = kv_evict.cells(ptr, seq)
        assert before[1].tolist() == after[1].tolist()
        assert (keys == kv_evict.rows(ptr, seq, before[1])).all()


def test_rows_rest_within_their_cells_and_the_oldest_goes(model: Model) -> None:
    rows = [request(random_tokens(50, seed=i), 1) for i in range(4)]
    with engine(model, 1, 400, prefix_cells=120) as made:
        for i in (0, 1, 0, 2):
            made.submit(rows[i], "row")
            drain(made)
            assert n_used(made) <= 120
        assert n_used(made) == 100
        # the second was used least recently
        assert n_read(made, rows[1], 1) == 50
        drain(made)
        assert n_read(made, rows[2], 2) == 1


def test_what_rests_gives_way_to_a_row(model: Model) -> None:
    rest = [request(random_tokens(60, seed=i), 1) for i in range(3)]
    with engine(model, 2, 256, prefix_cells=256) as made:
        run(made, rest)
        assert n_used(made) == 180
        made.submit(request(random_tokens(20, seed=9), 130), "large")
        made.step()
        assert n_used(made) == 60 + 20  # the two oldest went
        drain(made)
        # a prompt that begins like the one that rests has its cells, and all others
        long = list(rest[2].prompt) + random_tokens(10, seed=10)  # type: ignore[arg-type]
        assert n_read(made, request(long, 256 - 70), "all") == 10
        assert len(drain(made)["all"]) == 256 - 70 - 1


def test_one_that_goes_on_replaces_what_it_goes_on_from(model: Model) -> None:
    short = random_tokens(50, seed=1)
    with engine(model, 1, 256, prefix_cells=200) as made:
        run(made, [request(short, 1), request(short + random_tokens(30, seed=2), 1)])
        assert len(made._cells._prefixes.resting) == 1
        assert n_used(made) == 80
        run(made, [request(short, 1)])
        assert len(made._cells._prefixes.resting) == 1


@pytest.mark.parametrize("budget", [None, 120])
def test_a_conversation_that_comes_back_reads_what_is_new(model: Model, budget: int | None) -> None:
    """The answer too is there still, if nothing of it was evicted."""
    talk = random_tokens(60, seed=1)
    fields = {"n_predict": 80, "budget": budget, "policy": "scope-slide"}
    with engine(model, 1, 512, prefix_cells=256, policy="scope-slide") as made:
        first = request(talk, **fields)
        answer = tokens_of(run(made, [first])[0])
        assert n_used(made) == (60 if budget else 60 + 79)  # the last token is not decoded
        follows = request([*talk, *answer, *random_tokens(10, seed=2)], 40)  # type: ignore[list-item]
        n = n_read(made, follows, "next")
        assert n == (80 + 10 if budget else 1 + 10)
        said = drain(made)["next"]
    assert tokens_of(said) == tokens_of(alone(model, follows))[1:]


def test_of_a_long_prompt_the_beginning_rests(model: Model) -> None:
    with engine(model, 1, 256, prefix_cells=64) as made:
        row = request(random_tokens(100), 5)
        run(made, [row])
        assert n_used(made) == 64
        assert n_read(made, row, "again") == 36


def test_no_cells_to_rest_in(model: Model) -> None:
    with engine(model, 1, 256) as made:
        run(made, rows_alike(1, policy="full"))
        assert n_used(made) == 0


# which one


def test_the_longest_beginning_is_found() -> None:
    prefixes = Prefixes()
    prefixes.add(3, [*range(40), 7, 7])
    prefixes.add(5, [*range(60), 7, 7])
    wanted = list(range(100))
    assert prefixes.find(wanted, 99) == (5, 60)
    assert prefixes.find(wanted, 50) == (5, 50) or prefixes.find(wanted, 50) == (3, 40)
    assert prefixes.find(wanted[: LEAST - 1], 99) == (-1, 0)
    assert prefixes.find([9, *wanted], 99) == (-1, 0)
    prefixes.remove(5)
    prefixes.remove(6)
    assert prefixes.find(wanted, 99) == (3, 40)
