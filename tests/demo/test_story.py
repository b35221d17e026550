"""What the demo says: it follows the results, whatever they are."""

from __future__ import annotations

import numpy as np
import pytest

from scope_cpp.demo.outcome import Outcome, Text
from scope_cpp.demo.rows import ROWS, Row
from scope_cpp.demo.sheet import Sheet
from scope_cpp.demo.story import apart, introduction, story
from scope_cpp.engine.generate import Stats
from scope_cpp.reference.task import ReferenceSample

N = 40
N_PROMPT, N_OUTPUT, N_CELLS = 100, 360, 140

SAMPLE = ReferenceSample(
    "x", "hubs", "Facts: a=1 b=2\nQuestions:" + " Q1 a b" * N, "", (3,) * N, (0,) * N
)
SHEET = Sheet(SAMPLE, N_PROMPT, N_OUTPUT, N_CELLS)
FULL, RETRIEVAL, FORESIGHT, SLIDE, ADAPTIVE, DISCONTINUOUS, H2O, STREAMING = ROWS


def outcome(
    row: Row,
    n_right: int,
    *,
    last: bool = False,
    prompt: float = 1.0,
    output: float = 0.1,
    evicted: int = 200,
    finish: str | None = "stop",
) -> Outcome:
    """A row with so many right answers, the first ones or the last ones."""
    right = range(N - n_right, N) if last else range(n_right)
    text = "".join(f". A{i + 1}={3 if i in right else 4}" for i in range(N))
    kept = np.concatenate([np.full(N_PROMPT, prompt), np.full(N_OUTPUT, output)])
    stats = Stats(n_generated=N_OUTPUT, kv_bytes=1 << 20, evicted=evicted)
    made = Outcome(row, [SHEET])
    used = N_PROMPT + N_OUTPUT if row.is_full else N_CELLS
    made.texts.append(Text(SHEET, text, finish, used, 1.0, stats, kept))
    return made


def full(n_right: int = N) -> Outcome:
    return outcome(FULL, n_right, output=1.0, evicted=0)


def told(*outcomes: Outcome) -> str:
    return " ".join(story(outcomes))


def test_scope_wins() -> None:
    rows = [full(), outcome(FORESIGHT, 39), outcome(ADAPTIVE, 30), outcome(H2O, 10, prompt=0.5)]
    assert story([*rows, outcome(STREAMING, 5, prompt=0.04)]) == [
        "The full cache took 460 cells (1 MiB) and got 100% right; the others had 140 (1 MiB).",
        "SCOPE kept the whole prompt, where the facts are, and 36 of 360 cells it wrote: "
        "75 to 98% right.",
        "H2O and StreamingLLM kept 50% and 4% of the prompt: 25% and 12% right, "
        "0% in the last quarter.",
        "Of 40 answers SCOPE foresight got 39 right, H2O 10; the full cache 40 "
        "(no clear difference).",
    ]


def test_scope_loses() -> None:
    text = told(full(), outcome(FORESIGHT, 10), outcome(H2O, 35), outcome(STREAMING, 2))
    assert "Of 40 answers H2O got 35 right, SCOPE foresight 10: SCOPE is not the best here" in text
    assert "the full cache 40." in text


def test_a_draw() -> None:
    text = told(full(), outcome(FORESIGHT, 30), outcome(H2O, 30, last=True))
    assert "SCOPE foresight got 30 right, H2O 30 (no clear difference); the full cache 40." in text


def test_everything_fits() -> None:
    rows = [full(), outcome(FORESIGHT, N, evicted=0), outcome(H2O, N, evicted=0)]
    (text,) = story(rows)
    assert "nothing was given up; all texts are the same, 100% right" in text
    rows[1].texts[0].text += "x"
    (text,) = story(rows)
    assert "yet not all texts are the same" in text


def test_a_model_that_does_not_solve_the_task() -> None:
    assert "does not solve this task" in told(full(10), outcome(FORESIGHT, 10))
    assert "does not solve this task" not in told(full(30), outcome(FORESIGHT, 10))


def test_only_what_is_finished_is_told() -> None:
    assert story([Outcome(row, [SHEET]) for row in ROWS]) == []
    one = [full(), outcome(FORESIGHT, 20, finish=None), Outcome(H2O, [SHEET])]
    assert story(one) == ["The full cache took 460 cells (1 MiB) and got 100% right."]
    assert "SCOPE" not in told(full(), outcome(H2O, 20))
    assert "in the last quarter" not in told(full(), outcome(FORESIGHT, 20))


@pytest.mark.parametrize(
    ("share", "words"),
    [(1.0, "the whole prompt"), (0.999, "99% of the prompt"), (0.001, "less than 1% of")],
)
def test_shares_are_not_rounded_to_all_or_nothing(share: float, words: str) -> None:
    assert words in told(full(), outcome(FORESIGHT, 20, prompt=share))


@pytest.mark.parametrize(
    ("n_one", "n_other", "last", "expected"),
    [
        (40, 36, False, False),  # 4 questions, all for one: 4 = 2·√4
        (40, 35, False, True),
        (40, 40, False, False),
        (25, 20, True, False),  # few in common: 20 against 15
        (30, 0, False, True),
    ],
)
def test_apart(n_one: int, n_other: int, last: bool, expected: bool) -> None:
    one, other = outcome(FORESIGHT, n_one), outcome(H2O, n_other, last=last)
    assert apart(one, other) is apart(other, one) is expected


def test_the_introduction_counts() -> None:
    text = introduction([full()])
    assert "reads 2 facts and answers 40 questions" in text
    assert "140 cells for 100 tokens of prompt and 360 of output" in text
