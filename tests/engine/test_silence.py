"""An output that shows nothing says why."""

from __future__ import annotations

from typing import Any

import pytest

from scope_cpp.engine.conversation import Conversation
from scope_cpp.engine.generate import Response, generate
from scope_cpp.engine.model import Model
from scope_cpp.engine.parallel import ParallelEngine, Request
from scope_cpp.engine.sampling import SamplingParams
from scope_cpp.engine.settings import Settings
from tests.cli.conftest import TEMPLATE
from tests.conftest import Tiny

ONE_THREAD = Settings(n_threads=1, n_threads_batch=1)
BOS, EOS, NEWLINE = 1, 2, 3 + ord("\n")

# sampling, longest output, stop strings -> why there is nothing to see
CASES: list[tuple[dict[str, Any], int, tuple[str, ...], str | None]] = [
    ({"logit_bias": {EOS: 1e6}}, 5, (), "the first token, '</s>', ended the output"),
    ({"grammar": 'root ::= ""'}, 5, (), "the first token, '</s>', ended the output"),
    (
        {"grammar": r'root ::= "\n"'}, 5, (),
        "only white space came before '</s>', which ended the output",
    ),
    (
        {"logit_bias": {BOS: 1e6}}, 3, (),
        "all 3 tokens of the longest output are tokens without text, the last of them '<s>'",
    ),
    (
        {"logit_bias": {NEWLINE: 1e6}}, 2, (),
        r"all 2 tokens of the longest output are white space, the last of them '\n'",
    ),
    ({"grammar": 'root ::= "abc"'}, 5, ("ab",), "the stop string 'ab' came at once"),
    (
        {"grammar": r'root ::= "\nabc"'}, 9, ("ab",),
        "the stop string 'ab' came after only white space",
    ),
    ({"grammar": 'root ::= "abc"'}, 9, ("c",), None),
    ({"grammar": 'root ::= "abc"'}, 9, (), None),
]  # fmt: skip


def alone(model: Model, sampling: SamplingParams, n: int, stop: tuple[str, ...]) -> Response:
    values: dict[str, Any] = {"settings": ONE_THREAD, "sampling": sampling, "stop": stop}
    return generate(model, "Hi", n_predict=n, **values)[1]


def in_a_row(model: Model, sampling: SamplingParams, n: int, stop: tuple[str, ...]) -> Response:
    with ParallelEngine(model, n_parallel=1, n_cells=64, settings=ONE_THREAD) as engine:
        engine.submit(Request("Hi", n_predict=n, sampling=sampling, stop=stop), "row")
        while True:
            for event in engine.step():
                assert event.response is not None
                if event.response.finish_reason is not None:
                    return event.response


def answered(model: Model, sampling: SamplingParams, n: int, stop: tuple[str, ...]) -> Response:
    values: dict[str, Any] = {"settings": ONE_THREAD, "sampling": sampling, "stop": stop}
    with Conversation(model, n_predict=n, template=TEMPLATE, **values) as talk:
        answer = talk.ask("Hi")
        *_, last = answer
        assert answer.no_text == last.no_text
        return last


@pytest.mark.parametrize(("limit", "n_lines"), [({}, 1), ({"ctx_size": 300}, 0)])
def test_a_conversation_whose_answers_never_end_says_so(
    tiny: Tiny, limit: dict[str, int], n_lines: int
) -> None:
    lines: list[str] = []
    settings = Settings(budget=200, n_threads=1, n_threads_batch=1, **limit)
    values: dict[str, Any] = {"settings": settings, "template": TEMPLATE, "warn": lines.append}
    with (
        Model.load(tiny()) as model,
        Conversation(model, sampling=SamplingParams(ignore_eos=True), **values),
    ):
        pass
    assert sum("may never end" in line for line in lines) == n_lines


@pytest.mark.parametrize("write", [alone, in_a_row, answered])
@pytest.mark.parametrize(("sampling", "n", "stop", "why"), CASES)
def test_an_output_that_shows_nothing_says_why(
    tiny: Tiny, write: Any, sampling: dict[str, Any], n: int, stop: tuple[str, ...], why: str | None
) -> None:
    with Model.load(tiny()) as model:
        last = write(model, SamplingParams(temp=0, **sampling), n, stop)
    assert last.no_text == why
