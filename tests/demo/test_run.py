"""The runs, on a tiny model: the engine's own outputs, llama.cpp's cells, what stayed."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

import numpy as np
import pytest

from scope_cpp.demo.request import Request
from scope_cpp.demo.rows import ROWS
from scope_cpp.demo.run import Demo
from scope_cpp.demo.sheet import make_sheets
from scope_cpp.engine.generate import generate
from scope_cpp.engine.model import Model
from scope_cpp.engine.sampling import SamplingParams
from scope_cpp.engine.settings import Settings
from scope_cpp.errors import UsageError
from scope_cpp.reference.task import MIXES, Size
from tests.conftest import Tiny

from .sheets import by_hand

BETA = 20


@pytest.fixture(scope="module")
def model(tiny: Tiny) -> Iterator[Model]:
    with Model.load(tiny()) as loaded:
        yield loaded


@pytest.fixture(scope="module")
def finished(model: Model) -> Demo:
    sheets = make_sheets(model, [by_hand(5), by_hand(3)], BETA, None)
    demo = Demo(model, sheets, n_threads=1)
    left = [demo.seconds_left() for _ in demo.run()]
    known = [seconds for seconds in left if seconds is not None]
    assert left[0] is None and len(known) > 0.9 * len(left)
    assert known[-1] == 0 and min(known) >= 0
    return demo


def test_outputs_are_those_of_the_engine(finished: Demo, model: Model) -> None:
    for outcome in finished.outcomes:
        options = (
            ("interval=auto",) if outcome.row.policy in ("scope-slide", "scope-foresight") else ()
        )
        for text in outcome.texts:
            n_prompt = text.sheet.n_prompt
            settings = Settings(
                policy=outcome.row.policy,
                options=options,
                budget=None if outcome.row.is_full else n_prompt + BETA,
                n_threads=1,
            )
            written, last = generate(
                model, text.sheet.sample.prompt, n_predict=text.sheet.n_output, settings=settings,
                sampling=SamplingParams(temp=0), warn=lambda line: None,
            )  # fmt: skip
            assert (text.text, text.finish) == (written, last.finish_reason)
            assert text.n_used == last.stats.cells_peak
            assert text.stats.evicted == last.stats.evicted


def test_bounded_rows_have_the_same_cells_and_stay_below_them(finished: Demo) -> None:
    assert [outcome.row.policy for outcome in finished.outcomes] == [
        "full", "scope-retrieval", "scope-foresight", "scope-slide", "scope-adaptive",
        "scope-discontinuous", "h2o", "streaming-llm",
    ]  # fmt: skip
    for outcome in finished.outcomes:
        for text in outcome.texts:
            n_text = text.sheet.n_prompt + text.stats.n_generated
            if outcome.row.is_full:
                # the last token is not decoded
                assert (text.n_used, text.stats.evicted) == (n_text - 1, 0)
            else:
                assert text.sheet.n_cells == text.sheet.n_prompt + BETA
                assert 0 < text.n_used <= text.sheet.n_cells
                assert (text.stats.evicted > 0) == (n_text - 1 > text.sheet.n_cells)


def test_what_stayed_is_what_the_cells_hold(finished: Demo) -> None:
    for outcome in finished.outcomes:
        for text in outcome.texts:
            kept, n_prompt = text.kept, text.sheet.n_prompt
            assert kept is not None and kept.size == n_prompt + text.stats.n_generated - 1
            assert kept.sum() == pytest.approx(text.stats.cells_used)
            assert kept.min() >= 0 and kept.max() <= 1 and kept[-1] == 1
            if outcome.row.is_full:
                assert (kept == 1).all()
            elif outcome.row.is_scope and not outcome.row.is_default:
                assert text.kept_of("prompt") == 1
            elif outcome.row.policy == "streaming-llm":
                held = np.flatnonzero(kept)
                assert (kept[held] == 1).all()
                n_recent = held.size - 4
                assert held.tolist() == [0, 1, 2, 3, *range(kept.size - n_recent, kept.size)]


def test_a_demo_can_be_closed_at_any_time(model: Model) -> None:
    demo = Demo(model, make_sheets(model, [by_hand(2)], 4, None), n_threads=1)
    steps = demo.run()
    for _ in islice(steps, 90):
        pass
    steps.close()
    assert demo.interrupted
    first, second, *others = demo.outcomes
    assert first.finished
    assert second.texts[0].finish is None and second.texts[0].stats.n_generated > 0
    assert not any(outcome.texts for outcome in others)


def test_two_rows_only(model: Model) -> None:
    demo = Demo(model, make_sheets(model, [by_hand(1)], 4, None), (ROWS[0], ROWS[-1]), n_threads=1)
    assert not any(demo.interrupted for _ in demo.run() if demo.outcomes[-1].finished)
    assert [outcome.row.policy for outcome in demo.outcomes] == ["full", "streaming-llm"]


def test_the_output_gets_a_ninth(model: Model) -> None:
    (sheet,) = make_sheets(model, [by_hand()], None, None)
    assert sheet.n_cells == sheet.n_prompt + sheet.n_output // 9
    (half,) = make_sheets(model, [by_hand()], None, "90%")
    assert half.n_cells == (sheet.n_prompt + sheet.n_output) * 90 // 100


def test_cells_that_are_too_few(model: Model) -> None:
    with pytest.raises(UsageError, match="the prompt alone takes"):
        make_sheets(model, [by_hand()], None, "10")
    with pytest.raises(UsageError, match="scope-"):
        Demo(model, make_sheets(model, [by_hand()], 1, None))


@pytest.mark.parametrize("mix", MIXES)
@pytest.mark.parametrize("n", [1, 7, Size().questions])
def test_sheets_become_shorter_with_their_questions(mix: str, n: int) -> None:
    first, second = Request(mix=mix, n_questions=n, n_samples=2).samples()
    assert len(first.answers) == len(second.answers) == n
    assert first.prompt != second.prompt
    n_facts = first.prompt.partition("Questions:")[0].count("=")
    assert n <= n_facts <= 2 * n
    assert Request(mix=mix, n_questions=n).samples() == [first]
    assert Request(mix=mix, n_questions=n, seed=2).samples() != [first]
    assert first in Request(n_questions=n).samples()
