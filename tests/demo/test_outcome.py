"""Counting: accuracy, its quarters, and what an unfinished text counts for."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from scope_cpp.demo.outcome import Outcome, Text
from scope_cpp.demo.rows import ROWS
from scope_cpp.demo.sheet import Sheet
from scope_cpp.engine.generate import Stats
from scope_cpp.reference.task import ReferenceSample

from .sheets import by_hand, recounted


def sheet(answers: list[int]) -> Sheet:
    sample = ReferenceSample("x", "hubs", "", "", tuple(answers), (0,) * len(answers))
    return Sheet(sample, 10, 20, 15)


def written(of: Sheet, text: str, finish: str | None = "stop") -> Outcome:
    made = Outcome(ROWS[0], [of])
    made.texts.append(Text(of, text, finish))
    return made


def test_the_right_output_is_right() -> None:
    sample = by_hand()
    outcome = written(Sheet(sample, 1, 1, 1), sample.expected)
    assert (outcome.n_right, outcome.n_questions, outcome.accuracy) == (5, 5, 1.0)
    assert recounted(sample.prompt, sample.expected) == ([True] * 5, 1.0)


@pytest.mark.parametrize("n", [1, 3, 4, 5, 10, 228])
def test_quarters_hold_every_question_once(n: int) -> None:
    rng = np.random.default_rng(n)
    right = rng.random(n) < 0.5
    text = "".join(f". A{i + 1}={1 if ok else 2}" for i, ok in enumerate(right))
    quarters = written(sheet([1] * n), text).quarters()
    bounds = [-(-q * n // 4) for q in range(5)]
    parts = [right[low:high] for low, high in pairwise(bounds)]
    assert list(quarters) == [part.mean() if part.size else None for part in parts]


def test_an_unfinished_text_counts_as_far_as_it_came() -> None:
    text = ". A1=1\n Q2. A3=1\n. A9=1"  # 2 was passed over; 9 is no question
    running = written(sheet([1] * 8), text, finish=None)
    assert running.marks() == [True, False, True]
    assert running.quarters() == [0.5, 1.0, None, None]
    assert not running.finished
    assert written(sheet([1] * 8), text).marks() == [True, False, True] + [False] * 5


def test_nothing_is_known_before_the_start() -> None:
    outcome = Outcome(ROWS[0], [sheet([1])])
    assert outcome.accuracy is outcome.tokens_per_second is outcome.kept_of("prompt") is None
    assert not outcome.finished and outcome.cells == outcome.kv_bytes == 0


def test_several_sheets_are_summed_up() -> None:
    outcome = written(sheet([1, 1]), ". A1=1. A2=1")
    outcome.sheets = [sheet([1, 1]), sheet([1, 1])]
    assert not outcome.finished
    outcome.texts[0].stats = Stats(n_generated=11, kv_bytes=5, evicted=2)
    outcome.texts[0].seconds, outcome.texts[0].n_used = 1.0, 15
    more = Text(outcome.sheets[1], ". A1=1", "length", 14, 3.0, Stats(n_generated=31, evicted=1))
    outcome.texts.append(more)
    assert outcome.finished and outcome.accuracy == 0.75
    assert (outcome.cells, outcome.kv_bytes, outcome.evicted) == (15, 5, 3)
    assert outcome.tokens_per_second == (10 + 30) / 4
