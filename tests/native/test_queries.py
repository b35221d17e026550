"""Recorded queries at another position are those of the same tokens, decoded there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from scope_cpp.native import kv_evict
from tests.conftest import Tiny
from tests.native.harness import Session, random_tokens

F32 = npt.NDArray[np.float32]

N, N_QUERY, FURTHER = 40, 8, 83
ARGUMENT, NOT_INIT = -21, -20

# shapes of the model: pairs of neighbours are turned in llama, halves in the others
MODELS: dict[str, dict[str, Any]] = {
    "llama": {},
    "heads of 32": {"head_dim": 32},
    "one KV head": {"n_head_kv": 1},
    "qwen2": {"arch": "qwen2"},
    "qwen3": {"arch": "qwen3"},
}
# q8_0 is rotated where the head size is a multiple of 64, and refused where it is 32
CACHES: list[dict[str, Any]] = [
    {"kv": "f16"},
    {"kv": "f16", "flash": False},
    {"kv": "q8_0"},
    {"kv": ("q8_0", "f16"), "flash": False},
]
LINEAR, YARN = 1, 2
SCALED: dict[str, dict[str, Any]] = {
    "linear": {"rope_scaling_type": LINEAR, "rope_freq_scale": 0.25},
    "YaRN": {"rope_scaling_type": YARN, "rope_freq_scale": 0.25, "yarn_orig_ctx": 128},
    "YaRN, all lengthened": {
        "rope_scaling_type": YARN,
        "rope_freq_scale": 0.125,
        "yarn_ext_factor": 1.0,
        "yarn_attn_factor": 1.5,
        "yarn_orig_ctx": 64,
    },
}


def turned(path: Path, start: int, pos: int, **cache: Any) -> F32:
    """Queries of the same tokens, decoded from position `start` on, turned to `pos`."""
    with Session(path, **cache) as session:
        kv_evict.init(session.ctx, 16)
        session.decode(random_tokens(N), start)
        return kv_evict.queries(session.ctx, 0, N_QUERY, pos)


def as_decoded(path: Path, start: int, **cache: Any) -> F32:
    """The queries at their own positions, one after the other."""
    with Session(path, **cache) as session:
        kv_evict.init(session.ctx, 16)
        session.decode(random_tokens(N), start)
        last = start + N - 1
        own = [
            kv_evict.queries(session.ctx, 0, N_QUERY, last - N_QUERY + 1 + i)[:, :, i]
            for i in range(N_QUERY)
        ]
        return np.stack(own, axis=2)


def check(path: Path, **cache: Any) -> None:
    """Attention sees distances only, so that the tokens give the same queries further back."""
    there, pos = as_decoded(path, FURTHER, **cache), FURTHER + N - 1
    for i in range(N_QUERY):
        # query i, turned by as much as the tokens lie further back
        here = turned(path, 0, N - N_QUERY + i + FURTHER, **cache)[:, :, i]
        assert np.abs(here - there[:, :, i]).max() < tolerance(cache) * np.abs(there).max()
    # where a query is asked decides alone, not where it was
    at_one = turned(path, 0, pos, **cache), turned(path, FURTHER, pos, **cache)
    assert np.abs(at_one[0] - at_one[1]).max() < tolerance(cache) * np.abs(there).max()
    assert np.abs(at_one[0][:, :, 0] - there[:, :, 0]).max() > 0.1 * np.abs(there).max()


def tolerance(cache: dict[str, Any]) -> float:
    """The first layer's queries are exact; later ones carry the rounding of the caches."""
    return 5e-2 if "q8_0" in str(cache["kv"]) else 5e-3


@pytest.mark.parametrize("cache", CACHES, ids=str)
@pytest.mark.parametrize("model", ["llama", "qwen2"])
def test_queries_are_those_of_tokens_further_back(
    tiny: Tiny, model: str, cache: dict[str, Any]
) -> None:
    check(tiny(**MODELS[model]), **cache)


@pytest.mark.parametrize("scaling", SCALED)
@pytest.mark.parametrize("kv", ["f16", "q8_0"])
def test_scaled_rope(tiny: Tiny, kv: str, scaling: str) -> None:
    """Vectors that YaRN lengthens are not lengthened twice."""
    check(tiny(), kv=kv, more=SCALED[scaling])


@pytest.mark.parametrize(
    ("model", "cache"),
    [(model, cache) for model in MODELS for cache in CACHES[: 2 if "32" in model else 4]],
    ids=str,
)
def test_products_with_keys_are_the_logits(tiny: Tiny, model: str, cache: dict[str, Any]) -> None:
    """Of a query where it was: their softmax is what `scores` gives."""
    with Session(tiny(**MODELS[model]), **cache) as session:
        kv_evict.init(session.ctx, 16)
        session.decode(random_tokens(N), 0)
        session.decode(random_tokens(9, seed=6), N)
        _, ids, _ = kv_evict.cells(session.ctx, 0)
        expected = kv_evict.scores(session.ctx, 0, 1, ids, by_head=True)
        queries = kv_evict.queries(session.ctx, 0, 3, N + 8)[:, :, -1]
        keys = kv_evict.rows(session.ctx, 0, ids)
        assert np.array_equal(kv_evict.scores(session.ctx, 0, 1, ids, by_head=True), expected)
    keys = np.repeat(keys, queries.shape[1] // keys.shape[1], axis=1)
    logits = np.einsum("lhd,lhnd->lhn", queries.astype(np.float64), keys)
    weights = np.exp(logits - logits.max(axis=2, keepdims=True))
    weights /= weights.sum(axis=2, keepdims=True)
    # llama.cpp rounds a query to the type of K before it multiplies
    assert np.abs(weights - expected).max() < (2e-2 if "q8_0" in str(cache["kv"]) else 2e-3)


def test_the_last_queries_of_a_longer_text(tiny: Tiny) -> None:
    """More tokens than are recorded, in batches, after a rollback: always the newest ones."""
    tokens = random_tokens(60)
    with Session(tiny()) as session:
        kv_evict.init(session.ctx, 16)
        session.decode(tokens[:40], 0)
        session.decode_each(tokens[40:50], 40)
        many = kv_evict.queries(session.ctx, 0, 16, 70)
        few = kv_evict.queries(session.ctx, 0, 5, 70)
        assert np.array_equal(many[:, :, -5:], few)
        session.decode(tokens[50:53], 50)
        session.remove(50, -1)
        assert np.array_equal(kv_evict.queries(session.ctx, 0, 5, 70), few)


def test_queries_are_read_in_blocks(tiny: Tiny) -> None:
    """More than are turned at once, and no multiple of that: each as it was when it was newest."""
    tokens, newest = random_tokens(60), []
    with Session(tiny(), kv="q8_0") as session:
        kv_evict.init(session.ctx, 40)
        session.decode(tokens[:20], 0)
        for pos in range(20, 60):
            session.decode([tokens[pos]], pos)
            newest.append(kv_evict.queries(session.ctx, 0, 1, 70))
        for n in (16, 17, 37, 40):
            expected = np.concatenate(newest[-n:], axis=2)
            assert np.array_equal(kv_evict.queries(session.ctx, 0, n, 70), expected)


def test_each_sequence_has_its_own(tiny: Tiny) -> None:
    with Session(tiny(), n_seq=2) as session:
        kv_evict.init(session.ctx, 16)
        session.decode(random_tokens(N), 0)
        alone = kv_evict.queries(session.ctx, 0, N_QUERY, 50)
        session.decode(random_tokens(N, seed=9), 0, seq=1)
        assert np.array_equal(kv_evict.queries(session.ctx, 0, N_QUERY, 50), alone)
        assert not np.allclose(kv_evict.queries(session.ctx, 1, N_QUERY, 50), alone, atol=0.1)


def test_reading_changes_nothing(tiny: Tiny) -> None:
    tokens = random_tokens(20, seed=6)
    runs = []
    for reads in (False, True):
        with Session(tiny(), kv="q8_0") as session:
            kv_evict.init(session.ctx, 16)
            session.decode(random_tokens(N), 0)
            if reads:
                assert kv_evict.queries(session.ctx, 0, N_QUERY, 300).shape == (2, 8, N_QUERY, 64)
            logits = session.decode_each(tokens, N)
            runs.append((logits, kv_evict.state_get(session.ctx, 0)))
    assert np.array_equal(runs[0][0], runs[1][0]) and runs[0][1] == runs[1][1]


@pytest.mark.parametrize(
    ("n_query", "seq", "status"),
    [
        (0, 0, ARGUMENT),
        (-1, 0, ARGUMENT),
        (6, 0, kv_evict.QUERIES),
        (17, 0, kv_evict.QUERIES),
        (2**31 - 1, 0, kv_evict.QUERIES),
        (1, 1, kv_evict.QUERIES),
        (1, 2, ARGUMENT),
        (1, -1, ARGUMENT),
    ],
)
def test_queries_that_are_not_there(tiny: Tiny, n_query: int, seq: int, status: int) -> None:
    with Session(tiny(), n_seq=2) as session:
        kv_evict.init(session.ctx, 16)
        session.decode(random_tokens(5), 0)
        out = np.zeros(1, np.float32)
        found = kv_evict._queries(session.ctx, seq, n_query, 9, out.ctypes.data)
        assert found == status and out[0] == 0


def test_nothing_is_recorded(tiny: Tiny) -> None:
    with Session(tiny()) as session:
        session.decode(random_tokens(5), 0)
        with pytest.raises(kv_evict.NativeError, match="queries can't be read") as caught:
            kv_evict.queries(session.ctx, 0, 1, 9)
        assert caught.value.status == NOT_INIT
