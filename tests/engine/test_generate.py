"""From a prompt to text: how a generation ends, what it reports, what it refuses."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from scope_cpp.engine import generate as module
from scope_cpp.engine.attention import resolve
from scope_cpp.engine.capability import probe
from scope_cpp.engine.forecast import Forecast
from scope_cpp.engine.generate import Generation, Response, Stats, generate
from scope_cpp.engine.kv_types import bytes_per_cell
from scope_cpp.engine.model import Model
from scope_cpp.engine.sampling import SamplingParams
from scope_cpp.engine.settings import Settings
from scope_cpp.errors import ScopeError, UsageError
from scope_cpp.native import kv_evict
from scope_cpp.native.library import llama_cpp
from tests.conftest import Tiny
from tests.engine.drive import random_tokens
from tests.reference.refused import LOADABLE, write_refused

GREEDY = SamplingParams(temp=0)
PROMPT = "the rat and the rest"


@pytest.fixture(scope="module")
def model(tiny: Tiny) -> Iterator[Model]:
    with Model.load(tiny()) as model:
        yield model


def begin(model: Model, prompt: Any = PROMPT, **fields: Any) -> Generation:
    """Make a generation on one thread; names of `Settings` go there."""
    chosen = {name: fields.pop(name) for name in list(fields) if hasattr(Settings, name)}
    settings = Settings(n_threads=1, n_threads_batch=1, **chosen)
    fields = {"sampling": GREEDY, "warn": lambda line: None, **fields}
    return Generation(model, prompt, settings=settings, **fields)


def run(model: Model, prompt: Any = PROMPT, **fields: Any) -> tuple[str, list[Response]]:
    with begin(model, prompt, **fields) as generation:
        responses = list(generation)
    assert all(response.finish_reason is None for response in responses[:-1])
    return "".join(response.text for response in responses), responses


# how it ends


@pytest.mark.parametrize("budget", [60, None])
def test_as_long_as_was_asked_for(model: Model, budget: int | None) -> None:
    text, responses = run(model, n_predict=150, budget=budget)
    assert len(responses) == 150
    assert responses[-1].finish_reason == "length"
    assert text == model.detokenize([r.token for r in responses if r.token is not None])


def test_a_single_token(model: Model) -> None:
    _, responses = run(model, n_predict=1)
    assert [response.finish_reason for response in responses] == ["length"]
    assert responses[0].stats.cells_used == responses[0].stats.n_prompt


def test_the_context_size_limits_prompt_and_output(model: Model) -> None:
    n_prompt = len(model.tokenize(PROMPT))
    for n_predict, ctx_size, expected in [(None, 100, 100 - n_prompt), (10, 100, 10)]:
        _, responses = run(model, n_predict=n_predict, ctx_size=ctx_size)
        assert len(responses) == expected
        assert responses[-1].finish_reason == "length"
    assert len(run(model, n_predict=90, ctx_size=n_prompt + 7)[1]) == 7


def test_the_model_ends_it(model: Model) -> None:
    assert model.eos_token is not None
    ends = SamplingParams(temp=0, logit_bias={model.eos_token: 1e3})
    text, responses = run(model, n_predict=50, sampling=ends)
    assert text == "" and len(responses) == 1
    assert responses[0].finish_reason == "stop" and responses[0].token == model.eos_token


def test_the_end_can_be_ignored(model: Model) -> None:
    assert model.eos_token is not None
    goes_on = SamplingParams(temp=0, logit_bias={model.eos_token: 1e3}, ignore_eos=True)
    _, responses = run(model, n_predict=50, sampling=goes_on)
    assert len(responses) == 50 and responses[-1].finish_reason == "length"


@pytest.mark.parametrize("at", [0, 1, 10, 41])
def test_a_stop_string_that_straddles_tokens(model: Model, at: int) -> None:
    whole, responses = run(model, n_predict=80)
    stop = whole[at : at + 5]
    end = whole.index(stop)
    text, stopped = run(model, n_predict=80, stop=["not in the text", stop])
    assert text == whole[:end]
    assert stopped[-1].finish_reason == "stop"
    assert len(stopped) < len(responses)
    tokens = [response.token for response in responses]
    assert [response.token for response in stopped] == tokens[: len(stopped)]


def test_what_was_held_back_for_a_stop_string_comes_at_the_end(model: Model) -> None:
    whole, _ = run(model, n_predict=30)
    text, responses = run(model, n_predict=30, stop=[whole[-3:] + "\0"])
    assert text == whole and responses[-1].finish_reason == "length"


def test_no_half_characters(model: Model) -> None:
    """A token that is one byte of a character gives no text until the character is whole."""
    first, second = (model.tokenize("é", add_special=False)[i] for i in (0, 1))
    drawn = SamplingParams(temp=0, logit_bias={first: 1e3})
    with begin(model, n_predict=9, sampling=drawn) as generation:
        responses = iter(generation)
        assert next(responses).text == ""
    text, _ = run(model, n_predict=1, sampling=SamplingParams(temp=0, logit_bias={second: 1e3}))
    assert text == "\ufffd"


def test_generate_returns_text_and_last_response(model: Model) -> None:
    fields = {"n_predict": 40, "sampling": GREEDY}
    text, last = generate(model, PROMPT, settings=Settings(n_threads=1), **fields)
    whole, responses = run(model, n_predict=40)
    assert text == whole and last.token == responses[-1].token
    assert last.finish_reason == "length" and last.stats.n_generated == 40


def test_seeds_decide(model: Model) -> None:
    def draw(seed: int) -> str:
        return run(model, n_predict=60, budget=60, sampling=SamplingParams(seed=seed))[0]

    assert draw(1) == draw(1) != draw(2)


# stopping early


@pytest.mark.parametrize("budget", [60, None])
def test_a_loop_that_breaks_off_can_be_taken_up(model: Model, budget: int | None) -> None:
    whole, _ = run(model, n_predict=100, budget=budget)
    with begin(model, n_predict=100, budget=budget) as generation:
        text = ""
        for response in generation:
            text += response.text
            if generation.stats.n_generated == 70:
                break
        used = generation.stats.cells_used
        assert used == kv_evict.n_used(generation.context.ptr)
        assert generation.cache.n_past == len(generation.tokens) + 69  # the last is not decoded
        text += "".join(response.text for response in generation)
        assert text == whole and generation.stats.n_generated == 100
        assert list(generation) == []


def test_closing_in_the_middle(model: Model) -> None:
    generation = begin(model, n_predict=100, budget=60)
    responses = iter(generation)
    for _ in range(50):
        next(responses)
    assert generation.cache.positions().shape[2] == generation.stats.cells_used
    for _ in range(2):
        generation.close()
        with pytest.raises(ScopeError, match="the generation is closed: make another one"):
            next(responses)
    assert generation.stats.n_generated == 50


def test_an_exception_in_the_loop_leaves_the_model_usable(model: Model) -> None:
    whole, _ = run(model, n_predict=50, budget=60)
    with pytest.raises(KeyboardInterrupt), begin(model, n_predict=50, budget=60) as generation:
        for response in generation:
            if response.stats.n_generated == 45:
                raise KeyboardInterrupt
    assert run(model, n_predict=50, budget=60)[0] == whole


# what it reports


def test_statistics(model: Model) -> None:
    prompt = random_tokens(40)
    with begin(model, prompt, n_predict=120, budget=80, options=("recent=16",)) as generation:
        responses = list(generation)
        context = generation.context
        last = responses[-1].stats
        assert last == generation.stats
        assert last.n_prompt == 40 and last.n_generated == 120
        assert last.cells_used == kv_evict.n_used(context.ptr)
        assert last.cells_used <= last.cells_peak <= last.cells_capacity <= 80
        assert last.cells_allocated == kv_evict.n_cells(context.ptr) == 256
        assert last.kv_bytes == kv_evict.n_bytes(context.ptr) == 256 * bytes_per_cell(model)
        assert last.evicted == 40 + 119 - last.cells_used > 0
        assert last.selections > 0 and 0 < last.attention_loss < 1
    spent = last.score_seconds + last.select_seconds + last.move_seconds
    assert min(last.score_seconds, last.select_seconds, last.move_seconds) > 0
    assert spent < last.generation_seconds
    assert last.generated_per_second == 120 / last.generation_seconds
    assert last.prompt_per_second == 40 / last.prompt_seconds > 0
    counts = [response.stats.n_generated for response in responses]
    assert counts == list(range(1, 121))
    for name in ("evicted", "selections", "cells_peak", "generation_seconds"):
        values = [getattr(response.stats, name) for response in responses]
        assert values == sorted(values)


def test_statistics_before_anything_happened() -> None:
    assert Stats().prompt_per_second == Stats().generated_per_second == 0


# warnings


def test_a_small_recent_window_is_warned_about(model: Model) -> None:
    lines: list[str] = []
    run(model, n_predict=300, budget=100, policy="scope-slide", warn=lines.append)
    assert len(lines) == 1 and "beta2" in lines[0] and "128" in lines[0]
    lines.clear()
    fields = {"n_predict": 600, "policy": "scope-slide", "warn": lines.append}
    run(model, budget=400, ctx_size=512, **fields)
    run(model, n_predict=20, budget=100, policy="scope-slide", warn=lines.append)  # all fits
    assert lines == []


def test_warnings_go_to_python_by_default(model: Model) -> None:
    with pytest.warns(UserWarning, match="beta2"):
        Generation(
            model, PROMPT, n_predict=300, settings=Settings("scope-slide", budget=100)
        ).close()


@pytest.mark.parametrize("n_prompt", [20, 511, 512, 513, 600])
@pytest.mark.parametrize("policy", ["full", "scope-slide"])
def test_positions_beyond_the_training_are_warned_about_once(
    model: Model, n_prompt: int, policy: str
) -> None:
    assert model.n_ctx_train == 512
    lines: list[tuple[int, str]] = []
    fields = {"n_predict": 530, "policy": policy, "budget": None if policy == "full" else 900}
    with begin(
        model,
        random_tokens(n_prompt),
        warn=lambda line: lines.append((generation.stats.n_generated, line)),
        **fields,
    ) as generation:
        lines.clear()
        for _ in generation:
            if generation.stats.n_generated > 512 - n_prompt + 3:
                break
        assert len(lines) == 1
        n, line = lines[0]
    assert n == max(1, 513 - n_prompt)
    assert "512" in line and "trained" in line and "\n" not in line


def test_no_warning_within_the_training(model: Model) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fields = {"n_predict": 512 - 40, "settings": Settings(n_threads=1)}
        generate(model, random_tokens(40), sampling=GREEDY, **fields)


# budgets


def capacity(model: Model, n_predict: int | None = 300, **fields: Any) -> Stats:
    with begin(model, random_tokens(100), n_predict=n_predict, **fields) as generation:
        assert generation.stats.cells_capacity == generation.cache.capacity
        return generation.stats


def test_forms_of_a_budget(model: Model) -> None:
    for budget in (200, "200", "50%"):
        assert capacity(model, budget=budget).cells_capacity == 200, budget
    assert capacity(model, budget="100%").cells_capacity == 400
    assert capacity(model, 3000, budget="1k").cells_capacity == 1024
    assert capacity(model, 3000, budget="1k").cells_allocated == 1024
    assert capacity(model, 3000).cells_capacity == 100 + 1024
    assert capacity(model, None).cells_capacity == 100 + 1024
    assert capacity(model, budget=100_000).cells_capacity == 400


def test_a_budget_of_half_the_free_memory(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whole steps of 256 cells, with their buffers."""
    free = 2 * of_cells(model, 512)
    monkeypatch.setattr("scope_cpp.engine.sizes.free_memory", lambda **_: free)
    assert capacity(model, 8000, budget="auto").cells_capacity == 512
    assert capacity(model, 30, budget="auto").cells_capacity == 130
    with pytest.raises(UsageError, match="free"):
        capacity(model, 80_000, budget=60_000)
    monkeypatch.setattr("scope_cpp.engine.sizes.free_memory", lambda **_: 100_000)
    with pytest.raises(UsageError, match="half of the 97.7 KiB of memory .* end other programs"):
        capacity(model, budget="auto")


def test_bytes_of_a_budget(model: Model) -> None:
    budget = f"{-(-of_cells(model, 16_384) // 1024)}KiB"
    assert capacity(model, 500_000, budget=budget).cells_capacity == 16_384
    assert capacity(model, 500_000, budget=budget, type_k="q8_0").cells_capacity > 16_384
    with pytest.raises(UsageError, match="200KiB is too small: all 400 cells take .* give more"):
        capacity(model, budget="200KiB")


def of_cells(model: Model, n_cells: int) -> int:
    """Bytes of a bounded cache of so many cells, with its buffers."""
    with Forecast(model) as forecast:
        return forecast.taken(Settings(n_threads=1, n_threads_batch=1))(n_cells)


@pytest.mark.parametrize("budget", [None, 500])
def test_pools_named_by_options_bind_even_if_everything_would_fit(
    model: Model, budget: int | None
) -> None:
    options = ("beta1=10", "beta2=12", "interval=4")
    _, responses = run(model, n_predict=120, policy="scope-slide", options=options, budget=budget)
    stats = responses[-1].stats
    assert stats.cells_capacity == stats.cells_peak == stats.n_prompt + 10 + 12 + 4
    assert stats.evicted > 0


@pytest.mark.parametrize("policy, recent", [("scope-slide", "beta2"), ("h2o", "recent")])
def test_a_window_reaches_no_further_back_than_the_recent_tokens(
    model: Model, policy: str, recent: str
) -> None:
    options = ("score=window", "window=13", f"{recent}=12")
    with pytest.raises(UsageError, match="window=13 is more than the 12 recent tokens"):
        begin(model, n_predict=120, policy=policy, options=options, budget=60)


def test_sizes_may_be_given_one_by_one(model: Model) -> None:
    fields = {"policy": "scope-slide", "options": ("beta1=30", "beta2=40", "interval=8")}
    assert capacity(model, 3000, **fields).cells_capacity == 178
    assert capacity(model, 3000, budget=190, **fields).cells_capacity == 178


# what it refuses

BAD: list[tuple[str, dict[str, Any], str]] = [
    ("no prompt", {"prompt": ""}, "prompt is empty"),
    ("no tokens", {"prompt": []}, "prompt is empty"),
    ("no output", {"n_predict": 0}, "at least 1"),
    ("negative output", {"n_predict": -1}, "at least 1"),
    ("no room", {"prompt": [5] * 30, "ctx_size": 30}, "-c 230"),
    ("zero budget", {"budget": 0}, "more than 0"),
    ("negative budget", {"budget": "-5"}, "not understood"),
    ("odd budget", {"budget": "lots"}, "not understood"),
    ("small budget", {"budget": 2, "prompt": [5] * 30}, "such as 230"),
    ("share of nothing", {"budget": "50%", "n_predict": None}, "no limit"),
    ("full without an end", {"policy": "full", "n_predict": None}, "-n or -c"),
    ("full in little", {"policy": "full", "budget": 40}, "full"),
    ("over memory", {"budget": "900000GiB", "n_predict": None}, "free"),
    ("policy", {"policy": "sloth"}, "scope-slide"),
    ("prefill", {"prefill": "sloth"}, "snapkv"),
    ("granularity", {"granularity": "layer"}, "head, cell"),
    ("option", {"options": ("gamma=3",)}, "heavy"),
    ("another's option", {"options": ("beta1=3",)}, "--policy scope-slide, scope-foresight"),
    ("value", {"options": ("heavy=many",)}, "whole number"),
    ("kv type", {"type_k": "q2"}, "q8_0"),
    ("stop", {"stop": [""]}, "stop string"),
    ("pools", {"budget": 100, "options": ("heavy=90", "recent=90")}, "minimum"),
]


@pytest.mark.parametrize("fields, words", [row[1:] for row in BAD], ids=[row[0] for row in BAD])
def test_bad_input_is_refused_in_one_line(
    model: Model, monkeypatch: pytest.MonkeyPatch, fields: dict[str, Any], words: str
) -> None:
    monkeypatch.setattr(module, "Context", None)  # none may be made
    with pytest.raises(UsageError) as caught:
        begin(model, **{"n_predict": 200, **fields})
    assert words in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("token", [-1, 10**6])
def test_tokens_outside_the_vocabulary(model: Model, token: int) -> None:
    with pytest.raises(ScopeError) as caught, begin(model, [5, token], n_predict=5) as generation:
        list(generation)
    assert "\n" not in str(caught.value)


UNBOUNDED = [name for name in LOADABLE if name != "bert"]


@pytest.fixture(scope="module")
def refused(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("refused")
    return {name: write_refused(name, folder / f"{name}.gguf") for name in LOADABLE}


@pytest.mark.parametrize("name", UNBOUNDED)
def test_models_that_cannot_be_bounded(
    refused: dict[str, Path], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    with Model.load(refused[name]) as model:
        prompt = random_tokens(20)
        for fields in ({"policy": "full"}, {"budget": "100%"}):
            _, responses = run(model, prompt, n_predict=60, **fields)
            assert responses[-1].finish_reason in ("length", "stop")
            assert responses[-1].stats.evicted == 0
        monkeypatch.setattr(module, "Context", None)
        with pytest.raises(ScopeError) as caught:
            begin(model, prompt, n_predict=60, budget=40)
    message = str(caught.value)
    assert refused[name].name in message and name in message and "\n" not in message
    assert probe(refused[name]).reason in message
    assert "--policy full" in message


@pytest.mark.parametrize("fields", [{"budget": 40}, {"policy": "full"}], ids=str)
def test_an_encoder_cannot_generate(refused: dict[str, Path], fields: dict[str, Any]) -> None:
    with Model.load(refused["bert"]) as model, pytest.raises(ScopeError, match="encoder"):
        begin(model, random_tokens(20), n_predict=60, **fields)


@pytest.mark.parametrize("budget", [60, None])
def test_without_flash_attention(model: Model, budget: int | None) -> None:
    fields: dict[str, Any] = {"flash_attn": "off", "n_predict": 100, "budget": budget}
    _, responses = run(model, **fields)
    assert len(responses) == 100
    assert (responses[-1].stats.evicted > 0) == (budget is not None)
    with pytest.raises(ScopeError, match="-ctv q8_0 needs flash attention"):
        run(model, type_v="q8_0", **fields)


@pytest.mark.parametrize(
    ("fields", "attention"),
    [
        ({"budget": 60}, "off"),
        ({"budget": 60, "flash_attn": "on"}, "on"),
        ({"budget": 60, "type_k": "q8_0"}, "off"),
        ({"budget": 60, "type_v": "q8_0"}, "auto"),
        ({}, "auto"),
        ({"flash_attn": "off"}, "off"),
        ({"budget": 60, "offload_kqv": False}, "off"),
    ],
    ids=str,
)
def test_which_attention_is_chosen(
    model: Model, fields: dict[str, Any], attention: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(llama_cpp, "llama_supports_gpu_offload", lambda: False)
    with begin(model, n_predict=100, **fields) as generation:
        assert generation.context.params.flash_attn == attention


@pytest.mark.parametrize(("offload_kqv", "attention"), [(True, "auto"), (False, "off")])
def test_which_attention_is_chosen_with_a_gpu(
    model: Model, offload_kqv: bool, attention: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(llama_cpp, "llama_supports_gpu_offload", lambda: True)
    monkeypatch.setattr(model, "offloaded", True)
    settings = Settings(offload_kqv=offload_kqv)
    chosen = resolve(settings, model, bounded=True)
    assert chosen.flash_attn == attention
    assert chosen.n_ubatch == (128 if attention == "off" else 512)


def test_smaller_batches_and_a_given_attention_stay(model: Model) -> None:
    given = Settings(flash_attn="off")
    assert resolve(given, model, bounded=True) == given
    small = Settings(n_ubatch=64, offload_kqv=False)
    assert resolve(small, model, bounded=True).n_ubatch == 64
