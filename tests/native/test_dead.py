"""Layers that keep fewer rows than others: nothing attends to the rows that they have too many."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from scope_cpp.native import kv_evict
from scope_cpp.reference.numpy_llama import NumpyLlama
from tests.conftest import Tiny
from tests.native.harness import Session, error, random_tokens
from tests.native.heads import NO_CELLS, no_moves, remove_cells

Bool = npt.NDArray[np.bool_]

N, N_MORE, RECENT = 60, 24, 8
ARGUMENT, SHARED = -21, -23
# of the logits, by the kind of cache; see test_eviction and native.md for where they come from
KINDS: list[tuple[dict[str, Any], float]] = [
    ({"kv": "f32", "flash": False}, 2e-4),
    ({"kv": "f16", "flash": False}, 3e-3),
    ({"kv": "f16"}, 3e-3),
    ({"kv": "q8_0"}, 3e-2),
]


def random_dead(n_layer: int, n: int, seed: int = 3) -> Bool:
    """Mark another number of rows in every layer, none of them recent."""
    rng = np.random.default_rng(seed)
    dead = np.zeros((n_layer, n), np.bool_)
    for layer in range(n_layer):
        some = rng.choice(n - RECENT, (layer + 1) * (n - RECENT) // (n_layer + 1), replace=False)
        dead[layer, some] = True
    return dead


def kill(session: Session, dead: Bool) -> None:
    """Mark rows by (layer, position)."""
    _, ids, _ = kv_evict.cells(session.ctx, 0)
    kv_evict.set_dead(session.ctx, 0, ids, dead)


def numpy_model(path: Path, tokens: list[int], dead: Bool) -> NumpyLlama:
    """Hold the same rows."""
    model = NumpyLlama(path)
    model.decode(tokens, 0)
    model.evict(np.repeat(~dead[:, None], model.n_head_kv, axis=1))
    return model


@pytest.mark.parametrize(("cache", "bound"), KINDS, ids=str)
@pytest.mark.parametrize("n_batch", [1, 6])
def test_logits(tiny: Tiny, cache: dict[str, Any], bound: float, n_batch: int) -> None:
    """As a llama in NumPy computes them that has evicted these rows."""
    tokens, more = random_tokens(N), random_tokens(N_MORE, seed=6)
    dead = random_dead(2, N)
    model = numpy_model(tiny(), tokens, dead)
    whole = NumpyLlama(tiny())
    whole.decode(tokens, 0)
    with Session(tiny(), **cache) as session:
        kv_evict.init(session.ctx, 4)
        session.decode(tokens, 0)
        kill(session, dead)
        for i in range(0, N_MORE, n_batch):
            logits = session.decode(more[i : i + n_batch], N + i)
            expected = model.decode(more[i : i + n_batch], N + i)
            assert error(logits, expected) < bound
            unevicted = whole.decode(more[i : i + n_batch], N + i)
            assert error(logits, unevicted) > 5 * bound


@pytest.mark.parametrize("flash", [True, False])
@pytest.mark.parametrize("by_head", [True, False])
def test_scores(tiny: Tiny, flash: bool, by_head: bool) -> None:
    """Dead rows have weight 0, and the others the weights of the model that has evicted them."""
    tokens, more = random_tokens(N), random_tokens(4, seed=6)
    dead = random_dead(2, N)
    model = numpy_model(tiny(), tokens, dead)
    with Session(tiny(), kv="f32", flash=flash) as session:
        kv_evict.init(session.ctx, 4)
        session.decode(tokens, 0)
        kill(session, dead)
        for i, token in enumerate(more):
            session.decode([token], N + i)
            model.decode([token], N + i)
        _, ids, _ = kv_evict.cells(session.ctx, 0)
        for n_query in (1, 4):  # the second one is what was added up without flash attention
            scores = kv_evict.scores(session.ctx, 0, n_query, ids, by_head=by_head)
            assert not scores[:, :, :N][np.repeat(dead[:, None], scores.shape[1], axis=1)].any()
            n_group = model.n_head // scores.shape[1]
            assert np.allclose(scores.sum(axis=2), n_query * n_group, atol=1e-4)
        last = kv_evict.scores(session.ctx, 0, 1, ids, by_head=by_head)
        weights = (model.attention_by_head if by_head else model.attention)[:, :, 0]
        pos = model.positions()
        for layer, head in np.ndindex(last.shape[:2]):
            row = pos[layer, head * pos.shape[1] // last.shape[1]]
            seen = weights[layer, head][row >= 0]
            assert np.abs(last[layer, head, row[row >= 0]] - seen).max() < 2e-3


@pytest.mark.parametrize("flash", [True, False])
def test_the_same_in_all_layers_is_an_eviction(tiny: Tiny, flash: bool) -> None:
    """Rows that are dead in every layer are as good as removed."""
    tokens, more = random_tokens(N), random_tokens(N_MORE, seed=6)
    gone = random_dead(1, N)[0]
    logits = []
    for evicts in (True, False):
        with Session(tiny(), kv="f32", flash=flash) as session:
            kv_evict.init(session.ctx, 4)
            session.decode(tokens, 0)
            _, ids, _ = kv_evict.cells(session.ctx, 0)
            if evicts:
                remove_cells(session.ctx, ids[gone])
            else:
                kill(session, np.stack([gone, gone]))
            logits.append(session.decode_each(more, N))
    assert error(logits[0], logits[1]) < 2e-3 if flash else 1e-5


@pytest.mark.parametrize("flash", [True, False])
def test_alive_again(tiny: Tiny, flash: bool) -> None:
    """Rows that were shown again, and contexts that had dead rows once, are as if never hidden."""
    tokens, more = random_tokens(N), random_tokens(4, seed=6)
    with Session(tiny(), flash=flash) as session:
        kv_evict.init(session.ctx, 4)
        session.decode(tokens, 0)
        state = kv_evict.state_get(session.ctx, 0)
        expected = session.decode_each(more, N)
        kv_evict.state_set(session.ctx, 0, state)
        dead = random_dead(2, N)
        kill(session, dead)
        assert error(session.decode_each(more, N), expected) > 0.01
        session.remove(N, N + len(more))
        kill(session, np.zeros_like(dead))
        assert np.array_equal(session.decode_each(more, N), expected)
        kill_again = np.zeros((2, N + len(more)), np.bool_)
        kill_again[0, 3:9] = True
        kill(session, kill_again)
        kv_evict.state_set(session.ctx, 0, state)  # which has no dead rows
        assert np.array_equal(session.decode_each(more, N), expected)


@pytest.mark.parametrize("how", ["apply", "remove", "clear", "forget"])
def test_a_new_token_is_alive(tiny: Tiny, how: str) -> None:
    """A cell that is freed and filled again is alive in all layers, however it was freed."""
    tokens = random_tokens(N)
    with Session(tiny(), n_ctx=256) as session:
        kv_evict.init(session.ctx, 4)
        expected = session.decode(tokens, 0)
        dead = np.zeros((2, N), np.bool_)
        dead[0, 10:-1] = dead[1, 20:-1] = True
        kill(session, dead)
        _, ids, _ = kv_evict.cells(session.ctx, 0)
        assert np.array_equal(kv_evict.get_dead(session.ctx, 0, ids), dead)
        if how == "apply":
            kv_evict.apply(session.ctx, 0, no_moves(session.ctx), no_moves(session.ctx), ids)
        elif how == "remove":
            session.remove(0, N)
        else:
            session.remove(-1, -1)
        if how == "forget":
            kv_evict.forget(session.ctx, 0)
        assert np.array_equal(session.decode(tokens, 0), expected)
        _, ids, _ = kv_evict.cells(session.ctx, 0)
        assert not kv_evict.get_dead(session.ctx, 0, ids).any()


@pytest.mark.parametrize("cache", [kind for kind, _ in KINDS], ids=str)
@pytest.mark.parametrize("elsewhere", [False, True])
def test_state(tiny: Tiny, cache: dict[str, Any], elsewhere: bool) -> None:
    """A saved sequence goes on as it would have, in its cells bit by bit, elsewhere too."""
    tokens, more = random_tokens(N), random_tokens(N_MORE, seed=6)
    dead = random_dead(2, N)
    with Session(tiny(), n_seq=2, **cache) as session:
        kv_evict.init(session.ctx, 4)
        session.decode(tokens, 0)
        kill(session, dead)
        remove_cells(session.ctx, [4, 9])
        dead = np.delete(dead, [4, 9], axis=1)
        session.decode_each(more[:3], N)
        state = kv_evict.state_get(session.ctx, 0)
        expected = session.decode_each(more[3:], N + 3)
        session.remove(-1, -1)
        if elsewhere:
            session.decode(tokens[:7], 0, seq=1)
        kv_evict.state_set(session.ctx, 0, state)
        _, ids, _ = kv_evict.cells(session.ctx, 0)
        now = kv_evict.get_dead(session.ctx, 0, ids)
        assert np.array_equal(now[:, : dead.shape[1]], dead) and not now[:, dead.shape[1] :].any()
        logits = session.decode_each(more[3:], N + 3)
        if elsewhere:
            assert error(logits, expected) < 5e-2
        else:
            assert np.array_equal(logits, expected)


def test_no_queries_without_a_row_to_see(tiny: Tiny) -> None:
    with Session(tiny()) as session:
        kv_evict.init(session.ctx, 8)
        session.decode(random_tokens(N), 0)
        assert kv_evict.n_queries(session.ctx, 0) == 8
        dead = np.zeros((2, N), np.bool_)
        dead[1, : N - 3] = True
        kill(session, dead)
        assert kv_evict.n_queries(session.ctx, 0) == 3
        _, ids, _ = kv_evict.cells(session.ctx, 0)
        assert np.isfinite(kv_evict.scores(session.ctx, 0, 3, ids)).all()
        dead[1] = True
        kill(session, dead)
        assert kv_evict.n_queries(session.ctx, 0) == 0


def test_batches_of_two_sequences(tiny: Tiny) -> None:
    """Dead rows of one sequence are nothing to the other, in one batch with it."""
    tokens, more = random_tokens(N), random_tokens(8, seed=6)
    dead = random_dead(2, N)
    alone = []
    for hides in (True, False):
        with Session(tiny(), kv="f32", flash=False) as session:
            kv_evict.init(session.ctx, 4)
            session.decode(tokens, 0)
            kill(session, dead & hides)
            alone.append(session.decode_each(more, N))
    with Session(tiny(), kv="f32", flash=False, n_seq=2) as session:
        kv_evict.init(session.ctx, 4)
        for seq in range(2):
            session.decode(tokens, 0, seq)
        kill(session, dead)
        for i, token in enumerate(more):
            both = session.decode_batch([(token, N + i, (seq,)) for seq in range(2)])
            assert error(both, np.stack([logits[i] for logits in alone])) < 1e-4


def test_graphs_are_reused(tiny: Tiny) -> None:
    """Dead rows cost a new graph when they come and when they go, none in between."""
    with Session(tiny()) as session:
        kv_evict.init(session.ctx, 4)
        session.decode(random_tokens(N), 0)
        for dead in (random_dead(2, N), random_dead(2, N, seed=4), np.zeros((2, N), np.bool_)):
            kill(session, dead)
            session.decode(random_tokens(1), N)
            before = session.n_reused
            session.decode_each(random_tokens(10), N + 1)
            assert session.n_reused == before + 10
            session.remove(N, N + 11)


def test_refusals(tiny: Tiny) -> None:
    with Session(tiny(), n_seq=2) as session:
        kv_evict.init(session.ctx, 4)
        session.decode(random_tokens(N), 0)
        session.share(0, 1)
        session.decode(random_tokens(3), N)
        _, ids, _ = kv_evict.cells(session.ctx, 0)
        for bad in (-1, 256, N + 3):
            for call in (
                lambda cell: kv_evict.set_dead(session.ctx, 0, cell, np.zeros((2, 1), np.bool_)),
                lambda cell: kv_evict.get_dead(session.ctx, 0, cell),
            ):
                with pytest.raises(kv_evict.NativeError) as caught:
                    call(np.array([bad], np.int32))
                assert caught.value.status == ARGUMENT
        with pytest.raises(kv_evict.NativeError) as caught:
            kv_evict.set_dead(session.ctx, 0, ids[:2].copy(), np.eye(2, dtype=np.bool_))
        assert caught.value.status == SHARED
        assert not kv_evict.get_dead(session.ctx, 0, ids).any()
        kv_evict.set_dead(session.ctx, 0, NO_CELLS, np.zeros((2, 0), np.bool_))
        with pytest.raises(ValueError, match="must be"):
            kv_evict.set_dead(session.ctx, 0, ids, np.zeros((1, ids.size), np.bool_))
