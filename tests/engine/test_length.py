"""Models that look positions up in a table: their texts end with it, and llama.cpp never aborts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from scope_cpp.batch.requests import Defaults, Requests
from scope_cpp.batch.sizes import Census
from scope_cpp.bench.measure import Bench
from scope_cpp.bench.request import Request as BenchRequest
from scope_cpp.bench.row import Compute
from scope_cpp.engine.context import Context, ContextParams
from scope_cpp.engine.conversation import Conversation
from scope_cpp.engine.generate import Generation
from scope_cpp.engine.inspect import describe, examine
from scope_cpp.engine.model import Model
from scope_cpp.engine.sampling import SamplingParams
from scope_cpp.engine.sizes import conversation_cells
from scope_cpp.errors import ScopeError, UsageError
from scope_cpp.serve.options import Options, cache_sizes
from tests.conftest import Tiny
from tests.engine.rows import engine, request, run, settings, tokens_of
from tests.native.harness import random_tokens

N_POSITIONS = 90
GREEDY = SamplingParams(temp=0, ignore_eos=True)
TABLES: dict[str, dict[str, Any]] = {
    "gpt2": {},
    "starcoder": {},
    "mpt": {"attention__max_alibi_bias": 0.0},
}


@pytest.fixture(params=TABLES)
def model(request: pytest.FixtureRequest, tiny_arch: Tiny) -> Iterator[Model]:
    keys = {"context_length": N_POSITIONS, **TABLES[request.param]}
    with Model.load(tiny_arch(arch=request.param, **keys)) as loaded:
        yield loaded


@pytest.mark.parametrize("budget", ["50", "100%"])
def test_the_output_ends_with_the_positions(model: Model, budget: str) -> None:
    said: list[str] = []
    with Generation(
        model,
        random_tokens(20),
        n_predict=200,
        settings=settings(budget=budget),
        sampling=GREEDY,
        warn=said.append,
    ) as generation:
        responses = list(generation)
        assert generation.cache.n_past == N_POSITIONS - 1
    assert len(responses) == N_POSITIONS - 20 and responses[-1].finish_reason == "length"
    assert said[-1] == (
        f"the text ends here: {model.path.name} has learned the first 90 positions of a text only"
    )


def test_a_prompt_as_long_as_the_table_is_refused(model: Model) -> None:
    for n in (N_POSITIONS, N_POSITIONS + 1):
        with pytest.raises(UsageError, match=f"{n} tokens, .* 90 positions .* a shorter prompt"):
            Generation(model, random_tokens(n), n_predict=1, settings=settings())
    said: list[str] = []
    with Generation(
        model, random_tokens(N_POSITIONS - 1), settings=settings(), warn=said.append
    ) as generation:
        assert len(list(generation)) == 1
    assert len(said) == 1 and "90 positions" in said[0]


def test_a_smaller_context_size_comes_first(model: Model) -> None:
    with pytest.raises(UsageError, match="-c 30 leaves no room .* give -c 1054 or"):
        Generation(model, random_tokens(30), settings=settings(ctx_size=30))
    with pytest.raises(UsageError, match="-c 30 leaves no room .* give -c 50 or more"):
        Generation(model, random_tokens(30), n_predict=20, settings=settings(ctx_size=30))
    with Generation(
        model, random_tokens(20), settings=settings(ctx_size=30), sampling=GREEDY
    ) as generation:
        assert len(list(generation)) == 10


def test_a_conversation_ends_with_the_positions(model: Model) -> None:
    said: list[str] = []
    with Conversation(
        model,
        settings=settings(budget="60", policy="scope-slide"),
        sampling=GREEDY,
        template="plain",
        warn=said.append,
    ) as talk:
        *_, last = talk.ask("the rat")
        assert last.finish_reason == "length"
        assert talk.cache.n_past == N_POSITIONS - 1
        assert sum("90 positions" in line for line in said) == 1
        with pytest.raises(
            ScopeError,
            match=r"no room .* 90 positions .*: take the last .* \(/undo\) or begin anew",
        ):
            list(talk.ask("again"))
        talk.clear()
        with pytest.raises(
            ScopeError, match=r"no room .* 90 positions .*: send a shorter message$"
        ):
            list(talk.ask("again " * 20))
        assert next(iter(talk.ask("the rat"))).token is not None


def test_every_answer_that_ends_so_says_why_it_does(model: Model) -> None:
    said: list[str] = []
    with Conversation(
        model,
        settings=settings(),
        sampling=GREEDY,
        template="plain",
        n_predict=20,
        warn=said.append,
    ) as talk:
        talk.say("the rat")
        assert said == [] and talk.why_full is None
        talk.n_predict = None
        for _ in range(2):
            *_, last = talk.regenerate()
            assert last.finish_reason == "length" and talk.why_full == said[-1]
        assert len(said) == 2 and "90 positions" in said[0] == said[1]


def test_no_more_cells_are_reserved_than_a_text_can_have(model: Model) -> None:
    for asked in (settings(), settings(budget="2k"), settings(budget="100%")):
        assert conversation_cells(asked, model) == N_POSITIONS
    assert conversation_cells(settings(budget="50%", ctx_size=80), model) == 40
    assert cache_sizes(Options(n_parallel=3), model, settings()) == (270, 135)
    requests = Requests(model, Defaults(settings(), n_predict=10))
    assert Census.unknown(requests) == Census(None, N_POSITIONS, N_POSITIONS)


def test_an_inspection_tells_the_end(model: Model) -> None:
    for ctx_size in (None, 2000):
        found = examine(model.path, ctx_size=ctx_size)
        assert (found.n_positions, found.ctx_size) == (N_POSITIONS, N_POSITIONS)
    rows = dict(describe(found))
    assert rows["training length"].startswith("90 tokens; no text can be longer")
    assert rows["full cache"].endswith(" for 90 tokens")


def test_a_row_that_ends_so_leaves_the_others_alone(model: Model) -> None:
    longest, short = request(random_tokens(20), 200, budget=40), request(random_tokens(30), 40)
    with engine(model, 2, 200) as made:
        ended, other = run(made, [longest, short])
        with pytest.raises(UsageError, match="90 positions"):
            made.submit(request(random_tokens(95)), "long")
    assert len(tokens_of(ended)) == 70 and ended[-1].response.finish_reason == "length"
    assert len(tokens_of(other)) == 40 and other[-1].error is None


def test_nothing_is_decoded_beyond_the_table(model: Model) -> None:
    with Context(model, ContextParams(n_cells=256, n_threads=1)) as context:
        context.decode(random_tokens(N_POSITIONS), 0)
        with pytest.raises(ScopeError, match="no text of 91 tokens can be computed"):
            context.decode([5], N_POSITIONS)


def test_a_measurement_beyond_the_table_is_refused(model: Model) -> None:
    asked = BenchRequest(Compute(str(model.path)), n_prompts=(40,), depths=(500,))
    with pytest.raises(ScopeError, match="no text of 501 tokens can be computed"):
        Bench(asked)


def test_other_models_have_no_such_end(tiny_arch: Tiny) -> None:
    for arch in ("mpt", "bloom", "llama"):
        with Model.load(tiny_arch(arch=arch, context_length=N_POSITIONS), no_alloc=True) as loaded:
            assert loaded.n_positions is None
