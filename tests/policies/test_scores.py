"""Score folding, the order of odd values, and pooling by position."""

from __future__ import annotations

import numpy as np
import pytest

from scope_cpp.policies import View, make_decode, make_prefill
from scope_cpp.policies.scores.neighbours import smoothed, spanned
from scope_cpp.policies.scores.ranking import mixed
from scope_cpp.policies.scores.redundancy import redundancy
from scope_cpp.policies.select import top


def row(*values: float) -> np.ndarray:
    return np.array([[values]], dtype=np.float32)


def view(scores: np.ndarray, limit: int = 10**6) -> View:
    n = scores.shape[-1]
    return View(np.arange(n, dtype=np.int32).reshape(1, 1, n), scores, 0, n, None, limit)


def kept(mask: np.ndarray) -> list[int]:
    return np.flatnonzero(mask[0, 0]).tolist()


def test_accumulate_decays_once_per_query() -> None:
    policy = make_decode("h2o", {"decay": "0.5"})
    acc, observed = row(8, 4, 0), row(1, 0, 2)
    folded = policy.fold(acc, observed, 3)
    assert folded.dtype == np.float32
    assert folded.tolist() == [[[2.0, 0.5, 2.0]]]
    assert acc.tolist() == [[[8, 4, 0]]]
    assert policy.n_queries(7) == 7


@pytest.mark.parametrize(("score", "n"), [("last", 1), ("window", 16)])
def test_window_and_last_forget(score: str, n: int) -> None:
    policy = make_decode("scope-slide", {"score": score})
    assert policy.n_queries(3) == n
    assert policy.fold(row(8), row(1), n).tolist() == [[[1.0]]]


def test_prefill_scores() -> None:
    h2o, snapkv = make_prefill("h2o", {}), make_prefill("snapkv", {})
    assert h2o.n_queries(9) == 9
    assert h2o.fold(row(8), row(1), 9).tolist() == [[[9.0]]]
    assert snapkv.n_queries(9) == 32
    assert snapkv.fold(row(8), row(1), 32).tolist() == [[[1.0]]]


@pytest.mark.parametrize("name", ["full", "streaming-llm"])
def test_policies_without_scores_ask_for_none(name: str) -> None:
    policy = make_decode(name, {})
    assert not policy.needs_scores
    assert policy.n_queries(100) == 0
    assert policy.fold(row(3), row(1), 1).tolist() == [[[3.0]]]


def test_nan_is_lowest_inf_is_highest_ties_go_to_the_later() -> None:
    h2o = make_decode("h2o", {"heavy": "2", "recent": "1"})
    nan, inf = float("nan"), float("inf")
    assert kept(h2o.select(view(row(inf, nan, 5, nan, 7, 0)))) == [0, 4, 5]
    assert kept(h2o.select(view(row(-inf, -1, nan, nan, 0)))) == [1, 3, 4]
    assert kept(h2o.select(view(row(nan, nan, nan, nan, 0)))) == [2, 3, 4]
    assert kept(h2o.select(view(row(1, 1, 1, 0.5, 0)))) == [1, 2, 4]
    assert kept(h2o.select(view(row(3, inf, float(np.finfo("f4").max), inf, 0)))) == [2, 3, 4]


def test_top_agrees_with_a_full_sort() -> None:
    rng = np.random.default_rng(0)
    key = rng.integers(0, 6, size=(3, 4, 50)).astype(np.float32)
    pos = rng.random(key.shape).argsort(axis=-1).astype(np.int32)
    for k in range(1, 51):
        mask = top(key, pos, k)
        for head in np.ndindex(3, 4):
            best = sorted(range(50), key=lambda i: (key[head][i], pos[head][i]))[-k:]
            assert np.flatnonzero(mask[head]).tolist() == sorted(best)


# the window's 90 is nobody's neighbour, else position 5 would win
@pytest.mark.parametrize(
    ("pooling", "scores", "expected"),
    [
        ("avg", row(0, 3, 6, -3, 6, -3, 90), [1, 3, 6]),  # pooled: 1.5 3 2 3 1 1.5
        ("max", row(6, 2, 1, 1, 5, 1, 90), [0, 1, 6]),  # pooled: 6 6 2 5 5 5
        ("max", row(1, 2, 6, -2, 5, -2, 90), [2, 3, 6]),  # pooled: 2 6 6 6 5 5
    ],
)
def test_snapkv_pools_over_neighbours_by_position(
    pooling: str, scores: np.ndarray, expected: list[int]
) -> None:
    options = {"alpha1": "2", "window": "1", "kernel": "3", "pooling": pooling}
    assert kept(make_prefill("snapkv", options).select(view(scores), True)) == expected


def test_a_prompt_chunk_keeps_as_many_rows_as_the_limit_allows() -> None:
    for name in ("h2o", "snapkv"):
        policy = make_prefill(name, {"alpha1": "2"})
        scores = np.random.default_rng(0).random((1, 1, 80), dtype=np.float32)
        assert len(kept(policy.select(view(scores, limit=60), False))) == 60
        assert len(kept(policy.select(view(scores, limit=60), True))) == policy.cells(80)


def test_view_refuses_what_does_not_fit_together() -> None:
    with pytest.raises(ValueError, match="must be"):
        View(np.zeros((1, 1, 2), np.int32), np.zeros((1, 1, 3), np.float32), 0, 2, None, 1)
    with pytest.raises(ValueError, match="limit 0"):
        view(row(1, 2), limit=0)


def test_a_policy_that_needs_keys_says_so() -> None:
    plain, rkv, vatp = (make_decode(name, {}) for name in ("h2o", "r-kv", "vatp"))
    assert not (plain.needs_keys or plain.needs_values)
    assert (rkv.needs_keys, rkv.needs_values) == (True, False)
    assert (vatp.needs_keys, vatp.needs_values) == (False, True)
    sized = make_decode("r-kv", {"heavy": "2", "recent": "1", "window": "1"})
    with pytest.raises(ValueError, match="no keys"):
        sized.select(view(row(1, 2, 3, 4, 5)))


def test_redundancy_spares_the_latest_of_keys_that_are_alike() -> None:
    found = redundancy(np.array([[1, 0], [2, 0], [3, 0], [0, 1]], np.float32))
    # mean cosines 2/4, 1/4, 0, 0: each of the first three spares the latest of the other two
    expected = np.exp([0.5, 0.25, 0, 0])
    assert found == pytest.approx(expected / expected.sum())


def test_neighbours_are_neighbours_in_the_text() -> None:
    scores, pos = row(1, 5, 2, 0), np.array([[[0, 1, 7, 8]]], np.int32)
    assert smoothed(scores, pos, 3, "max").tolist() == [[[5, 5, 2, 2]]]
    assert smoothed(scores, pos, 3, "avg").tolist() == [[[3, 3, 1, 1]]]
    assert spanned(scores, pos, 4, start=1).tolist() == [[[1, 5, 1, 1]]]


def test_a_token_counts_by_what_other_heads_have_of_it() -> None:
    scores = np.array([[[0.25, 0.75], [1, 0]]], np.float32)
    pos = np.array([[[3, 4], [3, 9]]], np.int32)
    assert mixed(scores, pos, 1.0, "layer", "max").tolist() == [
        [[np.float32(1 / 1.75), np.float32(0.75 / 1.75)], [1, 0]]
    ]
    assert np.array_equal(mixed(scores, pos, 0.0, "layer", "mean"), scores)
