"""What goes wrong in a row is that row's; what goes wrong in a batch is its rows'."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from scope_cpp.engine.model import Model
from scope_cpp.engine.parallel import ParallelEngine, Request
from scope_cpp.errors import ScopeError, UsageError
from scope_cpp.native.library import llama_cpp
from tests.conftest import Tiny
from tests.engine.drive import random_tokens
from tests.engine.rows import alone, drain, engine, n_used, request, run, settings, tokens_of
from tests.reference.refused import write_refused


@pytest.fixture(scope="module")
def model(tiny: Tiny) -> Iterator[Model]:
    with Model.load(tiny()) as model:
        yield model


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (Request(""), "the prompt is empty"),
        (Request(()), "the prompt is empty"),
        (Request((1, 10**6)), "token 1000000 is outside of the vocabulary"),
        (Request((1, -1)), "token -1 is outside"),
        (request("the", 0), "longest output is 0"),
        (request("the", 5, stop=("",)), "a stop string is empty"),
        (request("the", 5, grammar="root ::= ("), "grammar"),
        (request("the", 5, logprobs=-1), "logprobs is -1: give 0 to"),
        (request("the", 5, logit_bias={10**6: 1.0}), "logit_bias names token"),
        (request("the", 5, type_k="q8_0"), "type_k is q8_0, but all rows share a context with f16"),
        (request("the", 5, n_threads=3), "n_threads is 3"),
        (request(random_tokens(40), 500, budget=30), "the prompt keeps 40 cells"),
        (request(random_tokens(40), 5, ctx_size=40), "leaves no room for output"),
        (request("the", None, policy="full"), "needs the longest output"),
    ],
)
def test_a_wrong_request_is_refused_alone(model: Model, row: Request, message: str) -> None:
    with engine(model, 2, 256) as made:
        bare = row if row.settings else Request(row.prompt, 5, settings())
        with pytest.raises(UsageError, match=message):
            made.submit(bare, "wrong")
        assert not made.busy
        assert len(run(made, [request("the rat", 6)])[0]) == 6


def test_an_engine_that_is_aborted_fails_its_rows(model: Model) -> None:
    with engine(model, 2, 256) as made:
        made.submit(request("the", 50), "a")
        made.submit(request("the rat", 50), "b")
        while made.n_running < 2:
            made.step()
        made.abort()
        said = made.step()
        assert {event.key for event in said} == {"a", "b"}
        assert {str(event.error) for event in said} == {"the computation was aborted"}
        assert not made.busy and made.cells_used() == 0


def test_a_key_is_one_rows(model: Model) -> None:
    with engine(model, 2, 256) as made:
        made.submit(request("the", 5), "key")
        with pytest.raises(UsageError, match="there is a row 'key' already"):
            made.submit(request("the", 5), "key")
        drain(made)
        made.submit(request("the", 5), "key")


@pytest.mark.parametrize(("n_parallel", "n_cells"), [(0, 100), (-1, 100), (10**6, 100), (2, 0)])
def test_an_engine_of_nothing(model: Model, n_parallel: int, n_cells: int) -> None:
    with pytest.raises(UsageError, match=r"give (1 to|at least 1)"):
        ParallelEngine(model, n_parallel=n_parallel, n_cells=n_cells)


def test_a_sampler_that_fails_ends_its_row_alone(model: Model) -> None:
    impossible = request("the", 20, grammar='root ::= "th"', ignore_eos=True)
    good = request("the rat", 20)
    with engine(model, 2, 256) as made:
        wrong, right = run(made, [impossible, good])
        assert n_used(made) == 0
    assert isinstance(wrong[-1].error, ScopeError) and wrong[-1].response is None
    assert "grammar allows no token" in str(wrong[-1].error)
    assert tokens_of(right) == tokens_of(alone(model, good))


def test_a_failed_decode_ends_the_rows_of_its_batch(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    """llama.cpp is made to give up in the middle of a batch; the engine goes on."""
    rows = [request(random_tokens(40, seed=i), 30, budget=60) for i in range(3)]
    with engine(model, 2, 256, prefix_cells=100, policy="full") as made:
        for i, row in enumerate(rows):
            made.submit(row, i)
        for _ in range(5):
            made.step()
        was = llama_cpp.llama_decode

        def interrupted(ctx: Any, batch: Any) -> int:
            was(ctx, batch)
            return -3

        monkeypatch.setattr(llama_cpp, "llama_decode", interrupted)
        events = made.step()
        monkeypatch.undo()
        assert [event.key for event in events] == [0, 1]
        assert all("status -3" in str(event.error) for event in events)
        assert (n_used(made), made.n_running, made.n_waiting) == (0, 0, 1)
        assert tokens_of(drain(made)[2]) == tokens_of(alone(model, rows[2]))
        made.submit(rows[0], 0)
        assert tokens_of(drain(made)[0]) == tokens_of(alone(model, rows[0]))


def test_ctrl_c_loses_nothing(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is raised once the step is whole; what was said then comes with the next one."""
    row = request(random_tokens(40), 20)
    with engine(model, 1, 256) as made:
        made.submit(row, "row")
        context = made._cells.context
        was = context.decode_rows
        said = []

        def hit(rows: Any) -> None:
            signal.raise_signal(signal.SIGINT)
            was(rows)

        while made.busy:
            if len(said) == 5 and context.decode_rows is not hit:
                monkeypatch.setattr(context, "decode_rows", hit)
                with pytest.raises(KeyboardInterrupt):
                    made.step()
                monkeypatch.setattr(context, "decode_rows", was)
            said += made.step()
    assert tokens_of(said) == tokens_of(alone(model, row))


@pytest.mark.parametrize("arch", ["mamba", "deepseek2", "bloom"])
def test_a_model_that_can_not_be_bounded_runs_full_rows(arch: str, tmp_path: Path) -> None:
    path = write_refused(arch, tmp_path / "model.gguf")
    with Model.load(path) as model, engine(model, 2, 256, policy="full") as made:
        tokens = list(range(3, 40))
        with pytest.raises(ScopeError, match="can't be run with a bounded cache"):
            made.submit(request(tokens, 100, policy="scope-slide", budget=60), "bounded")
        rows = [request(tokens[i:], 10, policy="full") for i in range(4)]
        said = run(made, rows)
        assert made.cells_used() == 0
    with Model.load(path) as model:
        for row, events in zip(rows, said, strict=True):
            assert tokens_of(events) == tokens_of(alone(model, row))


def test_closed_it_has_no_rows(model: Model) -> None:
    with engine(model, 2, 256) as made:
        made.submit(request("the", 50), 0)
        made.submit(request("the", 50), 1)
        made.step()
    assert not made.busy
    made.close()
