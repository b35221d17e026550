"""What gives way, against a naive reference, and what of a rendering is read already."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scope_cpp.engine.turns import (
    Region,
    count_cells,
    find_answers,
    give_way,
    match_answer,
    n_rows,
    thin_prompts,
)
from scope_cpp.policies import make_prefill


@st.composite
def caches(draw: st.DrawFn) -> tuple[Any, Any, list[Region]]:
    """Rows that differ by head, scores with ties, and regions."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    n_past = draw(st.integers(5, 60))
    n = draw(st.integers(3, n_past))
    heads = (draw(st.integers(1, 2)), draw(st.integers(1, 3)))
    pos = np.stack(
        [rng.permutation(n_past)[:n].astype(np.int32) for _ in range(heads[0] * heads[1])]
    ).reshape(*heads, n)
    scores = rng.integers(0, 5, pos.shape).astype(np.float32)
    cuts = sorted(rng.integers(0, n_past, 6).tolist())
    kinds = ["answer", "prompt", "answer"]
    regions = [
        Region(kind, i, cuts[2 * i], cuts[2 * i + 1])
        for i, kind in enumerate(kinds)
        if cuts[2 * i + 1] > cuts[2 * i]
    ]
    return pos, scores, regions


@given(caches(), st.floats(0, 1))
def test_the_oldest_region_goes_first_and_the_lowest_score_in_it(
    cache: tuple[npt.NDArray[np.int32], npt.NDArray[np.float32], list[Region]], share: float
) -> None:
    pos, scores, regions = cache
    n_free = int(share * n_rows(pos, regions))
    keep = give_way(pos, scores, regions, n_free)
    for layer, head in np.ndindex(pos.shape[:2]):
        queue = []
        for region in regions:
            rows = [i for i, p in enumerate(pos[layer, head]) if region.start <= p < region.stop]
            queue += sorted(rows, key=lambda i: (scores[layer, head, i], pos[layer, head, i]))
        gone = set(queue[:n_free])
        assert [i not in gone for i in range(pos.shape[2])] == keep[layer, head].tolist()


@given(caches(), st.floats(0, 1), st.sampled_from(["snapkv", "h2o"]))
def test_a_prefill_policy_takes_from_prompts_only(
    cache: tuple[npt.NDArray[np.int32], npt.NDArray[np.float32], list[Region]],
    share: float,
    name: str,
) -> None:
    pos, scores, regions = cache
    prefill = make_prefill(name, {})
    n = n_rows(pos, regions)
    n_free = int(share * (n - 1))
    if n_free < 1:
        return
    keep = thin_prompts(prefill, pos, scores, regions, n_free)
    assert ((~keep).sum(axis=2) == n_free).all()
    inside = np.zeros(pos.shape, np.bool_)
    for region in regions:
        inside |= (pos >= region.start) & (pos < region.stop)
    assert keep[~inside].all()


@given(caches())
def test_cells_are_counted_once(
    cache: tuple[npt.NDArray[np.int32], npt.NDArray[np.float32], list[Region]],
) -> None:
    pos, _, regions = cache
    bounds = sorted({0, 60, *(x for region in regions for x in (region.start, region.stop))})
    everything = [Region("prompt", 0, a, b) for a, b in zip(bounds, bounds[1:], strict=False)]
    assert sum(count_cells(pos, everything)) == pos.shape[2]


@pytest.mark.parametrize(
    "rendered, answer, end",
    [
        ("<a>yes</s>", "yes", 6),
        ("<a>yes</s>", "  yes\n", 6),
        ("<a> yes</s>", "yes", 7),
        ("<a>no</s>", "yes", None),
        ("<a></s>", " \n", 3),
        ("<a>yes", "yes it is", None),
    ],
)
def test_an_answer_in_a_rendering(rendered: str, answer: str, end: int | None) -> None:
    assert match_answer(rendered, 3, answer) == end


def test_answers_that_a_template_shortened() -> None:
    text = "<u>is it?</s><a>yes</s><u>yes?</s><a>no</s><u>x</s><a>"
    messages = [
        {"role": "user", "content": "is it?"},
        {"role": "assistant", "content": "<think>yes</think>\n\nyes"},
        {"role": "user", "content": "yes?"},
        {"role": "assistant", "content": " no "},
        {"role": "user", "content": "x"},
    ]
    assert [text[a:b] for a, b in find_answers(text, messages)] == ["yes", "no"]
    assert [a for a, _ in find_answers(text, messages)] == [16, 37]
