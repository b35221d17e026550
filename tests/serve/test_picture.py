from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scope_cpp.engine.generate import Stats
from scope_cpp.serve.picture import picture


def test_a_row_per_head() -> None:
    # 2 layers of 1 head, prompt 0 to 2; both have 0, 1, 6, 7; one has 2, the other 4
    pos = np.array([[[0, 1, 2, 6, 7]], [[7, 6, 4, 1, 0]]], np.int32)
    stats = Stats(n_prompt=3, n_generated=6, cells_used=5, cells_capacity=6, evicted=3)
    assert picture(pos, stats) == {
        "used": 5,
        "capacity": 6,
        "evicted": 3,
        "n_prompt": 3,
        "n_past": 8,
        "pools": {"prompt": 2.5, "history": 0.5, "recent": 2.0},
        "bin": 1,
        "at": {"n_past": 8, "evicted": 3},
        "kept": [100, 100, 50, 0, 50, 0, 100, 100],
    }


def test_nothing_bounded_and_nothing_left() -> None:
    stats = Stats(n_prompt=3, n_generated=3, cells_used=5, cells_capacity=8)
    everything = picture(np.zeros((0, 0, 0), np.int32), stats)
    assert everything["kept"] == [100] * 5
    assert everything["pools"] == {"prompt": 3, "history": 0, "recent": 2}
    gone = picture(None, stats)
    assert gone["n_past"] == 5 and "kept" not in gone and "pools" not in gone


@st.composite
def positions(draw: st.DrawFn) -> tuple[np.ndarray, int]:
    n_past = draw(st.integers(1, 60))
    n_rows = draw(st.integers(1, n_past))
    heads = [
        draw(st.permutations(range(n_past - 1)))[: n_rows - 1] + [n_past - 1] for _ in range(4)
    ]
    pos = np.array(heads, np.int32).reshape(2, 2, n_rows)
    dead = draw(st.integers(0, n_rows - 1))
    pos[0, :, :dead] = -1
    return pos, draw(st.integers(1, n_past))


@given(positions(), st.integers(1, 80))
def test_counts_agree(case: tuple[np.ndarray, int], most: int) -> None:
    pos, n_prompt = case
    told = picture(pos, Stats(n_prompt=n_prompt), most)
    n_rows = (pos >= 0).sum() / 4
    assert sum(told["pools"].values()) == pytest.approx(n_rows, abs=0.2)
    assert len(told["kept"]) <= most
    assert len(told["kept"]) == -(-told["n_past"] // told["bin"])
    assert told["bin"] == 1 or told["bin"] * most < 2 * told["n_past"]
    if told["bin"] == 1:
        expected = [(pos == p).sum() * 25 for p in range(told["n_past"])]
        assert told["kept"] == expected
        recent = told["kept"][n_prompt:]
        assert told["pools"]["recent"] == len(recent) - len(
            bytes(s == 100 for s in recent).rstrip(b"\1")
        )
    json.dumps(told)
