"""Sizes that shrink with depth, and what each layer then keeps, against slow words for the same."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from math import cos, pi

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scope_cpp.policies import Step, View, make_decode, make_prefill
from scope_cpp.policies.pyramid import largest, layer_size, mean_below

from . import naive
from .trace import Trace

N_PROMPT, N_LAYERS = 50, 2

means, betas = st.integers(0, 300), st.integers(1, 40)
depths, shapes = st.integers(1, 60), st.sampled_from(["linear", "cosine"])


def exact_size(
    mean: int, longest: int, beta: int, layer: int, n_layers: int, shape: str
) -> Fraction:
    """The size as a fraction: from the first layer's down to the last one's."""
    if mean >= longest:
        return Fraction(longest)
    first = min(2 * mean - mean // beta, longest)
    depth = Fraction(layer, n_layers - 1) if n_layers > 1 else Fraction(1, 2)
    if shape == "cosine":
        depth = Fraction((1 - cos(pi * float(depth))) / 2)
    return first + ((2 * mean - first) - first) * depth


@given(mean=means, longest=means, beta=betas, n_layers=depths, shape=shapes)
def test_sizes(mean: int, longest: int, beta: int, n_layers: int, shape: str) -> None:
    sizes = [layer_size(mean, longest, beta, i, n_layers, shape) for i in range(n_layers)]
    assert sum(sizes) == n_layers * min(mean, longest)
    assert sizes == sorted(sizes, reverse=True)
    assert 0 <= sizes[-1] <= sizes[0] <= min(longest, largest(mean, beta))
    for layer, size in enumerate(sizes):
        assert abs(size - exact_size(mean, longest, beta, layer, n_layers, shape)) < 1 + 1e-6


def test_pyramidkv_of_the_paper() -> None:
    """32 layers, 2048 in the mean, 8 of them the window, β = 20."""
    sizes = [layer_size(2040, 10**6, 20, layer, 32) for layer in range(32)]
    assert (sizes[0], sizes[-1], sum(sizes)) == (2 * 2040 - 102, 102, 32 * 2040)
    assert set(np.diff(sizes)) <= {-125, -126, -124}


@given(most=means, beta=betas)
def test_the_mean_that_a_largest_layer_allows(most: int, beta: int) -> None:
    mean = mean_below(most, beta)
    assert largest(mean, beta) <= most < largest(mean + 1, beta)


def heads(trace: Trace) -> dict[tuple[int, int], naive.Head]:
    """What every head has seen of the prompt."""
    known = {head: naive.Head() for head in trace.heads}
    for head, state in known.items():
        for position in range(trace.n_prompt):
            state.attend(position, trace.weigh(head))
    return known


def view_of(layer: int, trace: Trace, window: int, n_layers: int, limit: int = 10**6) -> View:
    """One layer's rows, in an order of their own for each head; scores of the last queries."""
    rng = np.random.default_rng(layer)
    pos = rng.permuted(np.tile(np.arange(trace.n_prompt, dtype=np.int32), (1, 2, 1)), axis=2)
    scores = np.zeros(pos.shape, np.float32)
    for head, (state_of, state) in enumerate(heads(trace).items()):
        if state_of[0] == layer:
            seen = naive.add_up(state.log[-window:])
            scores[0, head % 2] = [seen[p] for p in pos[0, head % 2].tolist()]
    return View(pos, scores, trace.n_prompt, trace.n_prompt, None, limit,
                layer=layer, n_layers=n_layers)  # fmt: skip


def chosen(view: View, keep: np.ndarray, head: int) -> set[int]:
    return set(view.pos[0, head][keep[0, head]].tolist())


@pytest.mark.parametrize("pooling", ["avg", "max"])
@pytest.mark.parametrize("alpha1", [0, 3, 12, 30, 41])
def test_pyramidkv_keeps_what_snapkv_would_of_that_size(alpha1: int, pooling: str) -> None:
    trace = Trace.random(N_PROMPT, 10)
    options = {"alpha1": str(alpha1), "pooling": pooling, "kernel": "3", "beta": "4"}
    policy = make_prefill("pyramidkv", options)
    total = 0
    for layer in range(N_LAYERS):
        view = view_of(layer, trace, 8, N_LAYERS)
        keep = policy.select(view, final=True)
        size = layer_size(alpha1, N_PROMPT - 8, 4, layer, N_LAYERS)
        for head in range(2):
            state = heads(trace)[layer, head]
            expected = naive.prefill_snapkv(state, size, 8, 3, pooling)
            assert chosen(view, keep, head) == expected
        total += int(keep[0, 0].sum())
    assert total == N_LAYERS * (alpha1 + 8)
    assert total == N_LAYERS * policy.rows(N_PROMPT)
    assert policy.keeps_all(N_PROMPT) == (alpha1 + 8 >= N_PROMPT)
    assert policy.cells(N_PROMPT) == min(N_PROMPT, 2 * alpha1 - alpha1 // 4 + 8)


@pytest.mark.parametrize("sinks", [0, 4])
def test_pyramidinfer_asks_all_heads_of_a_layer_together(sinks: int) -> None:
    trace = Trace.random(N_PROMPT, 10)
    options = {"alpha1": "15", "window": "10", "sinks": str(sinks)}
    policy = make_prefill("pyramidinfer", options)
    for layer in range(N_LAYERS):
        view = view_of(layer, trace, 10, N_LAYERS)
        keep = policy.select(view, final=True)
        states = [heads(trace)[layer, head] for head in range(2)]
        seen = naive.add_up([part for state in states for part in state.log[-10:]])
        window, first = set(range(N_PROMPT - 10, N_PROMPT)), set(range(sinks))
        size = layer_size(15, N_PROMPT - 10, 3, layer, N_LAYERS, "cosine")
        rest = set(range(N_PROMPT)) - window - first
        expected = window | first | naive.psi(size - sinks, seen, rest)
        assert [chosen(view, keep, head) for head in range(2)] == [expected, expected]


@pytest.mark.parametrize("n_layers", [1, 2, 8])
def test_pyramidinfer_in_decode(n_layers: int) -> None:
    """In each layer as a unified budget of that size; the largest layer fills the budget."""
    trace = Trace.random(N_PROMPT, 10)
    policy = make_decode("pyramidinfer", {"window": "8", "sinks": "2"})
    policy = policy.resolve(61, 20, None)
    known = vars(policy)
    assert known["recent"] + largest(known["heavy"], 3) + 16 <= 61
    assert policy.capacity(20, None) in (60, 61)
    due = Step(20, 60, None, 20, policy.capacity(20, None), 100, 1)
    assert policy.due(due) and not policy.due(replace(due, n_cells=due.n_cells - 1))
    options = {name: str(known[name]) for name in ("recent", "sinks", "interval", "mix", "score")}
    for layer in range(min(n_layers, 2)):
        view = view_of(layer, trace, 8, n_layers)
        size = layer_size(known["heavy"], 10**6, 3, layer, n_layers, "cosine")
        even = make_decode("h2o", {**options, "window": "8", "heavy": str(size)})
        keep = policy.select(view)
        assert np.array_equal(keep, even.select(view))
        assert (keep.sum(axis=2) == size + known["recent"]).all()


@pytest.mark.parametrize("name", ["pyramidkv", "pyramidinfer"])
@pytest.mark.parametrize("budget", [40, 64, 100, 1000])
def test_budgets_hold_for_the_largest_layer(name: str, budget: int) -> None:
    policy = make_prefill(name, {"window": "8"}).resolve(budget, 3000)
    assert policy.cells(3000) <= budget * 3 // 4 < policy.cells(3000) + 3
    assert policy.cells(10) == 10 and policy.keeps_all(10)
    short = make_prefill(name, {"window": "8"}).resolve(budget, budget * 3 // 4)
    assert short.keeps_all(budget * 3 // 4)


@pytest.mark.parametrize("name", ["pyramidkv", "pyramidinfer"])
def test_budgets_that_are_too_small(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name}: budget 40 .* minimum of 48 .*39 in the first"):
        make_prefill(name, {"alpha1": "20", "window": "8", "beta": "20"}).resolve(40, 3000)
    with pytest.raises(ValueError, match="budget 60 .* minimum of 103 .*first layer's heavy 67"):
        make_decode("pyramidinfer", {"heavy": "40", "recent": "20"}).resolve(60, 10, None)


@pytest.mark.parametrize("name", ["pyramidkv", "pyramidinfer"])
def test_the_memory_is_not_hidden(name: str) -> None:
    assert any("memory follows the largest" in line for line in make_prefill(name, {}).warnings())
