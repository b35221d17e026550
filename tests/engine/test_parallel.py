"""Rows in one engine: each writes what it writes alone, and ends as it ends alone."""

from __future__ import annotations

import json
from collections.abc import Iterator

import numpy as np
import pytest
from numpy.typing import NDArray

from scope_cpp.engine.context import Context, ContextParams, Row
from scope_cpp.engine.kv_types import kv_type
from scope_cpp.engine.model import Model
from scope_cpp.engine.parallel import Event, ParallelEngine
from scope_cpp.engine.settings import Settings
from scope_cpp.native import kv_evict
from scope_cpp.reference.shipped import model_path
from scope_cpp.reference.task import make_samples
from tests.conftest import Tiny
from tests.engine.drive import GRANULARITIES, POLICIES, random_tokens
from tests.engine.rows import alone, drain, engine, n_used, request, run, settings, tokens_of


@pytest.fixture(scope="module")
def model(tiny: Tiny) -> Iterator[Model]:
    with Model.load(tiny()) as model:
        yield model


def last(events: list[Event]) -> Event:
    assert all(event.response and event.response.finish_reason is None for event in events[:-1])
    return events[-1]


# the same tokens

MIXED = [
    *({"policy": name, "options": options} for name, options in POLICIES.items()),
    {"policy": "scope-foresight", "options": ("interval=auto",)},
    {"policy": "scope-slide", "prefill": "snapkv"},
    {"policy": "h2o", "prefill": "streaming-llm"},
    {"policy": "full", "budget": None},
]


@pytest.mark.parametrize("temp", [0, 0.9])
@pytest.mark.parametrize("granularity", GRANULARITIES)
def test_each_row_writes_what_it_writes_alone(model: Model, granularity: str, temp: float) -> None:
    """Of all kinds at once, with fewer cells than all need.

    A batch of several tokens is rounded otherwise than one of a single token (see below); in this
    model no choice hangs on that.
    """
    rows = [
        request(
            random_tokens(50 + 9 * i, seed=i),
            100,
            temp,
            seed=17 + i,
            **{"budget": 95 + 9 * i, "granularity": granularity, **fields},
        )
        for i, fields in enumerate(MIXED)
    ]
    with engine(model, 4, 512) as made:
        said = run(made, rows)
        assert made.n_generated == 100 * len(rows)
        assert made.n_evicted > 20 * (len(rows) - 1)
        assert n_used(made) == 0
    for row, events in zip(rows, said, strict=True):
        expected = alone(model, row)
        assert tokens_of(events) == tokens_of(expected)
        response = last(events).response
        assert response is not None and response.finish_reason == "length"
        assert response.stats.evicted == expected[-1].stats.evicted


def test_one_row_at_a_time_is_bit_by_bit_what_it_is_alone(model: Model) -> None:
    """No batch is shared then: not even rounding differs, and no draw of a seed."""
    rows = [
        request(random_tokens(150, seed=i), 60, 1.5, seed=i, top_k=0, budget=180, logprobs=0)
        for i in range(3)
    ]
    with engine(model, 1, 256) as made:
        said = run(made, rows)
    for row, events in zip(rows, said, strict=True):
        assert tokens_of(events) == tokens_of(alone(model, row))


@pytest.mark.parametrize(("kind", "digits"), [("f32", 2**-18), ("f16", 2**-11)])
def test_rows_in_one_batch_differ_by_rounding_only(model: Model, kind: str, digits: float) -> None:
    """What llama.cpp computes for a token depends, in its last bits, on what is beside it.

    Sums are formed in another order. Where K and V, and with them the queries, are rounded to 16
    bits, that shows in the 11 bits of their fractions; the weights of this model have 24.
    """
    prompts = random_tokens(40, seed=1), random_tokens(40, seed=2)
    ggml_type = kv_type(kind).ggml_type
    params = ContextParams(
        256, ggml_type, ggml_type, n_threads=1, n_threads_batch=1, n_seq_max=2, flash_attn="off"
    )

    def logits(seqs: tuple[int, ...]) -> NDArray[np.float32]:
        with Context(model, params) as context:
            for seq in seqs:
                context.decode(prompts[seq], 0, seq)
            context.decode_rows([Row(9, 40, seq, True) for seq in seqs])
            return context.logits(0)

    one, both = logits((0,)), logits((0, 1))
    np.testing.assert_allclose(one, both, atol=digits * np.abs(one).max())


@pytest.mark.parametrize("flash", ["off", "auto"])
def test_the_reference_model_writes_what_it_writes_alone(flash: str) -> None:
    """Weights of 16 bits round more coarsely; its own task has no choice that hangs on it.

    With ``auto`` a row alone has the plain attention on a CPU, rows at once the fused one.
    """
    samples = make_samples("uniform", 4, 3, n_questions=30, n_facts=40, n_filler=8)
    with Model.load(model_path()) as model:
        fields = {"budget": 320, "flash_attn": flash, "ignore_eos": False}
        rows = [request(sample.prompt, 160, **fields) for sample in samples]
        with engine(model, 4, 1024, flash_attn=flash) as made:
            said = run(made, rows)
        for row, events in zip(rows, said, strict=True):
            expected = alone(model, row)
            assert expected[-1].stats.evicted > 0
            assert tokens_of(events) == tokens_of(expected)
            assert [e.response and e.response.text for e in events] == [r.text for r in expected]


def test_a_row_does_not_depend_on_who_is_beside_it(model: Model) -> None:
    row = request(random_tokens(60), 80, 0.8, budget=100, policy="scope-slide")
    others = [request(random_tokens(30 + i, seed=9 + i), 20 + 7 * i, budget=60) for i in range(6)]
    with engine(model, 3, 300) as made:
        before = run(made, [row, *others])[0]
        after = run(made, [*others, row])[-1]
    assert tokens_of(before) == tokens_of(after)


# how they end


def test_stop_strings_grammars_and_ends(model: Model) -> None:
    text = "".join(r.text for r in alone(model, request("the rat", 40)))
    schema = json.dumps({"enum": ["at", "the"]})
    rows = [
        request("the rat", 40, stop=(text[9:12],)),
        request("the rat", 40, json_schema=schema, ignore_eos=False),
        request("the rat", 7),
        request("the rat", None, ctx_size=30),
    ]
    with engine(model, 4, 512) as made:
        said = run(made, rows)
    for row, events in zip(rows, said, strict=True):
        expected = alone(model, row)
        written = [event.response for event in events if event.response is not None]
        assert "".join(r.text for r in written) == "".join(r.text for r in expected)
        assert written[-1].finish_reason == expected[-1].finish_reason
    assert [last(events).response.finish_reason for events in said] == [  # type: ignore[union-attr]
        "stop", "stop", "length", "length",
    ]  # fmt: skip


def test_statistics_are_those_of_the_row(model: Model) -> None:
    rows = [request(random_tokens(60 + i, seed=i), 90, budget=100) for i in range(3)]
    with engine(model, 3, 320) as made:
        said = run(made, rows)
        for i, events in enumerate(said):
            stats = last(events).response.stats  # type: ignore[union-attr]
            assert (stats.n_prompt, stats.n_generated) == (60 + i, 90)
            assert stats.cells_peak <= stats.cells_capacity == made.worst_case(rows[i]) <= 100
            assert stats.evicted >= 60 + i + 89 - 100
            assert stats.prompt_seconds > 0 and stats.generation_seconds > 0
            assert stats.cells_allocated == 512


def test_log_probabilities_are_the_models_own(model: Model) -> None:
    row = request("the rat", 12, 1.2, seed=3, logprobs=3, logit_bias={40: 5.0})
    with engine(model, 1, 256) as made:
        events = run(made, [row, request("in the", 12)])[0]
    tokens = model.tokenize("the rat")
    with Context(model, ContextParams(256, n_threads=1, flash_attn="off")) as context:
        context.decode(tokens, 0)
        for i, event in enumerate(events):
            logits = context.logits().astype(np.float64)
            logprobs = logits - np.log(np.exp(logits).sum())
            chosen, *likely = event.logprobs
            assert event.response is not None and chosen.token == event.response.token
            assert [item.token for item in likely] == np.argsort(-logprobs)[:3].tolist()
            for item in event.logprobs:
                assert item.logprob == pytest.approx(logprobs[item.token], abs=1e-6)
                assert item.text == model.token_to_piece(item.token, special=True)
            context.decode([chosen.token], len(tokens) + i)


def test_without_log_probabilities_there_are_none(model: Model) -> None:
    with engine(model, 1, 256) as made:
        events = run(made, [request("the rat", 5), request("the rat", 5, logprobs=0)])
    assert all(event.logprobs == () for event in events[0])
    assert all(len(event.logprobs) == 1 for event in events[1])


def test_a_request_without_settings_has_the_engines(model: Model) -> None:
    row = request(random_tokens(40), 60)
    bare = type(row)(row.prompt, 60, sampling=row.sampling)
    with engine(model, 1, 256, budget=70, policy="h2o") as made:
        assert made.worst_case(bare) == 70
        events = run(made, [bare])[0]
    asked = request(random_tokens(40), 60, budget=70, policy="h2o")
    assert tokens_of(events) == tokens_of(alone(model, asked))


def test_an_automatic_budget_is_an_equal_share(model: Model) -> None:
    with engine(model, 4, 400) as made:
        assert made.worst_case(request(random_tokens(40), 500, budget="auto")) == 100


def test_a_warning_comes_once(model: Model) -> None:
    said: list[str] = []
    row = request(random_tokens(470), 60, budget=500, policy="scope-slide")
    with engine(model, 2, 1000, warn=said.append) as made:
        run(made, [row, row])
    assert len(said) == 2
    assert "beta2" in said[0] and "position 512 is the last" in said[1]


def test_an_engine_of_the_full_cache_records_nothing_until_a_row_wants_it(model: Model) -> None:
    full = request(random_tokens(40), 30, policy="full")
    bounded = request(random_tokens(41), 60, budget=60)
    with engine(model, 2, 256, policy="full", prefix_cells=100) as made:
        context = made._cells.context
        for i, row in enumerate((full, bounded, full)):
            made.submit(row, i)
        order = []

        def watch() -> None:
            order.append((context.n_recorded > 0, made.n_running))

        said = drain(made, watch)
    assert [recorded for recorded, n in order if n] == sorted(
        recorded for recorded, n in order if n
    )
    assert (False, 2) not in order and (True, 2) in order
    assert tokens_of(said[1]) == tokens_of(alone(model, bounded))


def test_settings_of_an_engine_are_the_defaults_without_any(model: Model) -> None:
    with ParallelEngine(model, n_parallel=2, n_cells=300) as made:
        assert made.settings == Settings()
        assert kv_evict.n_cells(made._cells.context.ptr) == 512
        assert settings() != made.settings
