"""Drift and heatmap against the NumPy llama, and what a bounded cache leaves of the attention."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from scope_cpp.engine.generate import Generation
from scope_cpp.engine.model import Model
from scope_cpp.engine.sampling import SamplingParams
from scope_cpp.engine.settings import Settings
from scope_cpp.errors import ScopeError, UsageError
from scope_cpp.figures import bins
from scope_cpp.figures.drift import QUERIES, Drift, choose_layers, drift, heavy_hitters
from scope_cpp.figures.heatmap import find, heatmap
from scope_cpp.figures.marks import ASCII, UNICODE
from scope_cpp.figures.observe import Evenly, Rows, describe
from scope_cpp.reference.numpy_llama import NumpyLlama
from tests.conftest import Tiny

PROMPT = list(range(20, 60))

# of a weight of up to 0.3: llama.cpp rounds queries and K to f16
ROUNDED = 1e-3


@contextmanager
def generation(path: Path, n_predict: int, **settings: Any) -> Iterator[Generation]:
    with (
        Model.load(path) as model,
        Generation(
            model, PROMPT, n_predict=n_predict, settings=Settings(n_threads=1, **settings),
            sampling=SamplingParams(temp=0, ignore_eos=True), warn=lambda line: None,
        ) as made,
    ):  # fmt: skip
        yield made


@pytest.fixture(scope="module")
def path(tiny: Tiny) -> Path:
    return tiny(n_layer=3)


def written(path: Path, n: int) -> list[int]:
    with generation(path, n, policy="full") as made:
        return [response.token for response in made if response.token is not None]


def test_heatmap_of_the_full_cache_is_the_numpy_llamas_attention(path: Path) -> None:
    n = 30
    with generation(path, n, policy="full") as made:
        shown = heatmap(made, "", 1, 0)
    assert shown.steps == tuple(range(1, n))  # the last token is not decoded
    assert shown.kept.sum(axis=1).tolist() == [len(PROMPT) + step for step in shown.steps]
    reference = NumpyLlama(path, kv_dtype=np.float16)
    reference.decode(PROMPT, 0)
    for i, token in enumerate(written(path, n)[:-1]):
        reference.decode([token], len(PROMPT) + i)
        group = reference.n_head // reference.n_head_kv
        expected = reference.attention[1, 0, -1] / group
        found = shown.attention[i]
        np.testing.assert_allclose(found[: expected.size], expected, atol=ROUNDED)
        assert np.isnan(found[expected.size :]).all()


def test_drift_marks_the_numpy_llamas_heavy_hitters(path: Path) -> None:
    n = 40
    with generation(path, n, policy="full") as made:
        shown = drift(made, "", 0.15)
    assert shown.layers == (0, 1, 2)
    assert shown.steps == (8, 16, 24, 32)
    reference = NumpyLlama(path, kv_dtype=np.float16)
    reference.decode(PROMPT + written(path, n)[: shown.steps[0]], 0)
    weights = reference.attention[:, :, -QUERIES:].sum(axis=2)
    found = shown.heavy[:, 0, : weights.shape[2]]
    most = round(0.15 * weights.shape[2])
    assert found.sum(axis=1) == pytest.approx([most] * 3)
    assert np.isnan(shown.heavy[:, 0, weights.shape[2] :]).all()
    # the same positions, but where weights are as close as their rounding
    expected = heavy_hitters(weights.astype(np.float32), 0.15)
    assert (found != expected).sum() <= 2


def test_a_bounded_cache_attends_to_nothing_that_it_gave_up(path: Path) -> None:
    with generation(path, 200, policy="scope-slide", budget=len(PROMPT) + 24) as made:
        shown = heatmap(made, describe(made, "tiny.gguf"), None, 1)
        capacity = made.sizes.capacity
    assert shown.layer == 1  # the middle
    assert shown.steps[0] == 2  # 199 steps in at most 160 rows
    assert shown.kept[:, : len(PROMPT)].all()  # the prompt stays
    assert (shown.kept.sum(axis=1) <= capacity + 1).all()  # a row has two steps
    assert shown.kept[-1, len(PROMPT) :].sum() <= 25 < 199
    assert (np.nan_to_num(shown.attention)[~shown.kept] == 0).all()
    np.testing.assert_allclose(np.nansum(shown.attention, axis=1), 1, atol=1e-3)
    last = [r for r in shown.table().records() if r["step"] == shown.steps[-1]]
    kept = np.flatnonzero(shown.kept[-1]).tolist()
    assert [r["first_position"] for r in last] == kept  # a bin has one position
    assert {r["cells"] for r in last} == {1}
    assert sum(float(r["attention"] or 0) for r in last) == pytest.approx(1, abs=0.01)
    assert shown.run == "tiny.gguf, scope-slide, 64 cells, prompt of 40 tokens, greedy"


def test_observing_changes_nothing(path: Path) -> None:
    settings = {"policy": "scope-slide", "budget": len(PROMPT) + 24}
    with generation(path, 80, **settings) as made:
        list(made)
        logits, positions = made.context.logits(), made.cache.positions()
    with generation(path, 80, **settings) as watched:
        shown = heatmap(watched, "", 0, 0)
        np.testing.assert_array_equal(watched.context.logits(), logits)
        np.testing.assert_array_equal(watched.cache.positions(), positions)
    assert np.flatnonzero(shown.kept[-1]).tolist() == sorted(positions[0, 0])


@pytest.mark.parametrize("marks", [UNICODE, ASCII])
def test_a_heatmap_in_a_terminal_shows_what_was_given_up(path: Path, marks: Any) -> None:
    with generation(path, 200, policy="streaming-llm", budget=len(PROMPT) + 24) as made:
        text = heatmap(made, "", 1, 0).text(80, marks)
    lines = text.splitlines()
    assert max(map(len, lines)) <= 80
    rows = [line[8:] for line in lines[1:] if line[:6].strip().isdigit()]
    assert len(rows) <= 24
    gone = marks.shades[0]
    assert gone not in rows[0]
    assert rows[-1].count(gone) > rows[len(rows) // 2].count(gone) > 0
    assert rows[-1][-1] != gone  # the newest token


def test_drift_in_a_terminal() -> None:
    heavy = np.array([[[1.0] * 4 + [0.0] * 4 + [np.nan] * 8, [0.0] * 8 + [1.0] * 4 + [0.0] * 4]])
    shown = Drift("", 8, 0.25, (0, 8), (5,), heavy)
    lines = shown.text(80, UNICODE).splitlines()
    assert lines[0] == "layer 5"
    assert lines[2].split() == ["0", "████····", "100%"]
    assert lines[3].split() == ["8", "········████····", "0%"]
    assert shown.in_prompt().tolist() == [[1.0, 0.0]]
    assert shown.of_prompt().tolist() == [1.0, 0.5]
    records = shown.table().records()
    assert [r["position"] for r in records] == [0, 1, 2, 3, 8, 9, 10, 11]
    assert {(r["step"], r["part"]) for r in records} == {(0, "prompt"), (8, "output")}


def test_heavy_hitters_by_hand() -> None:
    weights = np.array([[[0.5, 0.1, 0.4, 0.0], [0.1, 0.2, 0.6, 0.1]]], np.float32)
    assert heavy_hitters(weights, 0.5).tolist() == [[0.5, 0.5, 1.0, 0.0]]
    assert heavy_hitters(weights, 0.01).tolist() == [[0.5, 0.0, 0.5, 0.0]]  # one at least


def test_steps_are_evenly_spaced_however_many_there_are() -> None:
    for n in (1, 5, 8, 9, 100, 1000):
        kept: Evenly[int] = Evenly(8)
        for step in range(1, n + 1):
            if kept.wants(step):
                kept.add(step, -step)
        steps = list(kept.by_step)
        assert min(n, 4) <= len(steps) <= 8
        assert steps == [kept.stride * (i + 1) for i in range(len(steps))]
        assert n - steps[-1] < kept.stride
        assert list(kept.by_step.values()) == [-step for step in steps]


def test_rows_of_several_steps_are_their_means() -> None:
    rows = Rows(2)
    for n_past in (1, 2, 3, 4, 5):
        newest = np.array([n_past - 1], np.int32)
        rows.add(n_past, newest, np.array([1.0], np.float32))
    attention, kept = rows.arrays()
    assert rows.stride == 4
    np.testing.assert_array_equal(attention, [[0.25] * 4 + [np.nan], [0, 0, 0, 0, 1]])
    assert kept.tolist() == [[True] * 4 + [False], [False] * 4 + [True]]


def test_bins() -> None:
    values = np.array([[1.0, 3.0, 5.0, np.nan, np.nan]])
    assert bins.width_of(5, 3) == 2
    assert bins.width_of(5, 500) == 1
    np.testing.assert_array_equal(bins.means(values, 2), [[2.0, 5.0, np.nan]])
    assert bins.summed(np.ones(5), 2).tolist() == [2, 2, 1]


def test_layers_and_heads_that_there_are_not() -> None:
    assert choose_layers(None, 32) == (0, 16, 31)
    assert choose_layers(None, 1) == (0,)
    assert choose_layers([2, 0, 2], 3) == (0, 2)
    with pytest.raises(UsageError, match="no layer 3: layers are 0 to 2"):
        choose_layers([3], 3)
    with pytest.raises(UsageError, match="no layer 9: layers are 0 to 2"):
        find(9, 0, 3, 2)
    with pytest.raises(UsageError, match="no KV head 2: KV heads are 0 to 1"):
        find(0, 2, 3, 2)


def test_drift_needs_the_full_cache_and_an_output(path: Path) -> None:
    with (
        generation(path, 200, policy="scope-slide", budget=len(PROMPT) + 24) as made,
        pytest.raises(UsageError, match="--policy full"),
    ):
        drift(made, "", 0.15)
    with (
        generation(path, 1, policy="full") as made,
        pytest.raises(ScopeError, match="ended after 1 tokens, too few to draw"),
    ):
        drift(made, "", 0.15)
