"""The engine on models with windows, recurrent states and sinks: what it can on all others."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from scope_cpp.engine.conversation import Conversation
from scope_cpp.engine.forecast import Forecast
from scope_cpp.engine.generate import Generation
from scope_cpp.engine.model import Model
from scope_cpp.engine.sampling import SamplingParams
from scope_cpp.engine.settings import Settings
from scope_cpp.engine.sizes import CHAT_QUERIES
from scope_cpp.errors import ScopeError
from scope_cpp.native import kv_evict
from tests.conftest import Tiny
from tests.engine.drive import random_tokens
from tests.engine.rows import alone, engine, request, run, tokens_of
from tests.engine.talk import (
    WORDS,
    check_budget,
    check_goes_on_after_saving,
    converse,
    count_decoded,
    finish,
    holds,
    same,
    say,
    script,
)
from tests.reference.refused import LOADABLE, write_refused

# one of each class: windows, sinks and windows, short convolutions, DeltaNet, attention and Mamba
# in the same layer
CLASSES = ("gemma3", "gpt-oss", "lfm2", "qwen35", "falcon-h1")
every_class = pytest.mark.parametrize("arch", CLASSES)
# and how many tokens are written with it
POLICIES = {None: 600, "scope-slide": 300, "h2o": 300, "streaming-llm": 2000}


@pytest.fixture
def model(tiny_arch: Tiny, arch: str) -> Iterator[Model]:
    with Model.load(tiny_arch(arch=arch)) as model:
        yield model


def generation(model: Model, n_prompt: int, n_predict: int, **fields: Any) -> Generation:
    settings = Settings(n_threads=1, n_threads_batch=1, **fields)
    sampling = SamplingParams(temp=0.9, seed=4, ignore_eos=True)
    prompt = random_tokens(n_prompt)
    return Generation(
        model,
        prompt,
        n_predict=n_predict,
        settings=settings,
        sampling=sampling,
        warn=lambda _: None,
    )


def written(made: Generation) -> list[int | None]:
    with made:
        return [response.token for response in made]


@every_class
def test_where_all_fits_it_is_the_full_cache(model: Model) -> None:
    """Also of a policy that has recorded and weighed all along, but had nothing to evict."""
    full = written(generation(model, 90, 60, policy="full"))
    assert written(generation(model, 90, 60)) == full
    # llama.cpp rounds differently with and without flash attention
    fields: dict[str, Any] = {"n_predict": 40, "flash_attn": "on"}
    with (
        converse(model.path, 400, policy=None, **fields) as bounded,
        converse(model.path, 400, policy="full", **fields) as whole,
    ):
        for text in WORDS[:3]:
            assert say(bounded, text) == say(whole, text)
        assert bounded.cache.bounded and not whole.cache.bounded
        assert bounded.stats.evicted == 0


@every_class
def test_a_forecast_is_what_it_takes(model: Model) -> None:
    settings = Settings(budget=200, n_threads=1, n_threads_batch=1)
    with Forecast(model) as forecast:
        found = forecast.of_run(settings, 200, bounded=True)
    with generation(model, 90, 300, budget=200) as made:
        *_, last = made
        stats, cache = last.stats, made.cache
        assert (stats.kv_bytes, stats.fixed_bytes) == (found.kv, found.fixed)
        assert cache.footprint.fixed > 0
        assert stats.memory_bytes <= found.total
        parts = stats.kv_bytes, stats.fixed_bytes, stats.compute_bytes, stats.query_bytes
        assert stats.memory_bytes == sum(parts) + stats.selection_bytes
        assert found.kv + found.fixed == kv_evict.n_bytes(made.context.ptr)


@every_class
@pytest.mark.parametrize("policy", POLICIES)
def test_two_thousand_tokens_in_few_cells(model: Model, arch: str, policy: str | None) -> None:
    """Also where the window is larger than the budget. llama.cpp is asked after every token."""
    n = POLICIES[policy]
    with generation(model, 90, n, policy=policy, budget=130) as made:
        for response in made:
            used = kv_evict.n_used(made.context.ptr)
            assert used == response.stats.cells_used <= 130
        assert made.context.n_cells == 256
        assert response.stats.n_generated == n
        assert response.stats.evicted >= n - 45
        pos = made.cache.positions()
        assert pos.shape[0] == len(model.cell_layers) and pos.max() == 90 + n - 2


@every_class
@pytest.mark.parametrize("policy", [None, "scope-foresight", "full"])
def test_going_back_is_as_if_it_had_never_been(
    tiny_arch: Tiny, arch: str, policy: str | None
) -> None:
    options = ("interval=auto",) if policy == "scope-foresight" else ()
    budget = 700 if policy == "full" else 200
    fields: dict[str, Any] = {"n_predict": 50, "policy": policy, "options": options}
    path = tiny_arch(arch=arch)
    with converse(path, budget, **fields) as talk:
        for text in WORDS[:3]:
            say(talk, text)
        finish(talk, talk.regenerate())
        assert talk.undo() == WORDS[2]
        say(talk, WORDS[3])
        finish(talk, talk.edit(WORDS[4]))
        check_budget(talk)
        found = holds(talk)
    with converse(path, budget, **fields) as talk:
        for text in (WORDS[0], WORDS[1], WORDS[4]):
            say(talk, text)
        assert same(found, holds(talk))


@every_class
@pytest.mark.parametrize("policy", [None, "full"])
def test_a_saved_conversation_goes_on(
    tiny_arch: Tiny, tmp_path: Path, arch: str, policy: str | None
) -> None:
    budget = 500 if policy else 180
    check_goes_on_after_saving(tiny_arch(arch=arch), budget, tmp_path / "session", policy)


@pytest.mark.parametrize("arch", ["gemma3", "qwen35"])
def test_another_window_is_another_model(tiny_arch: Tiny, tmp_path: Path, arch: str) -> None:
    other = {"gemma3": {"attention__sliding_window": 64}, "qwen35": {"ssm__conv_kernel": 3}}[arch]
    with converse(tiny_arch(arch=arch), 200, n_predict=20) as talk:
        say(talk, WORDS[0])
        talk.save(tmp_path / "session")
    with (
        Model.load(tiny_arch(arch=arch, **other)) as model,
        pytest.raises(ScopeError, match="session"),
    ):
        Conversation.resume(model, tmp_path / "session")


@every_class
def test_rows_at_once_write_what_they_write_alone(model: Model) -> None:
    """They begin alike: each reads its own prompt, since windows and states can't be cut there."""
    prompt = random_tokens(60)
    exact = {"type_k": "f32", "type_v": "f32"}  # a batch of several tokens rounds otherwise
    rows = [
        request(prompt + random_tokens(5 + i, seed=i), 80, budget=budget, policy=policy, **exact)
        for i, (policy, budget) in enumerate(
            [(None, 100), ("h2o", 90), ("full", None), (None, None)]
        )
    ]
    with engine(model, 3, 600, prefix_cells=200, **exact) as made:
        said = run(made, rows)
        assert made.cells_used() == 0 and not made._cells.shares
    for row, events in zip(rows, said, strict=True):
        assert tokens_of(events) == tokens_of(alone(model, row))


# what can't be bounded


UNBOUNDED = [name for name in LOADABLE if name != "bert"]


@pytest.mark.parametrize("name", UNBOUNDED)
def test_what_cannot_be_bounded_runs_with_the_full_cache(tmp_path: Path, name: str) -> None:
    lines: list[str] = []
    path = write_refused(name, tmp_path / "model.gguf")
    dials = {"n_threads": 1, "n_threads_batch": 1}
    sampling = SamplingParams(temp=0, ignore_eos=True)
    with Model.load(path) as model:
        tokens = []
        for fields in ({}, {"policy": "full"}):
            with Generation(
                model,
                random_tokens(20),
                n_predict=1100 if not fields else 60,
                settings=Settings(**fields, **dials),
                sampling=sampling,
                warn=lines.append,
            ) as made:
                tokens.append([next(made).token for _ in range(60)])
        assert tokens[0] == tokens[1]
        reason = f"model.gguf ({name}) runs with the full cache: "
        assert [line for line in lines if reason in line] == lines[:1]
        with Conversation(
            model, settings=Settings(**dials), n_predict=20, warn=lines.append
        ) as talk:
            talk.say("the rat")
            assert talk.settings.policy == "full"
            with pytest.raises(ScopeError, match="--policy full"):
                talk.set_policy(policy="h2o")
        with engine(model, 2, 512, warn=lines.append) as made:
            (events,) = run(made, [request(random_tokens(20), 400, budget="auto")])
            assert len(events) == 400
        assert sum(reason in line for line in lines) == 3


@pytest.mark.parametrize(
    "fields",
    [{"policy": "h2o"}, {"budget": 40}, {"prefill": "snapkv"}, {"options": ("recent=9",)}],
    ids=str,
)
def test_what_was_asked_by_hand_is_refused(tmp_path: Path, fields: dict[str, Any]) -> None:
    path = write_refused("mamba", tmp_path / "model.gguf")
    with Model.load(path) as model:
        for open_it in (
            lambda: Generation(
                model, random_tokens(20), n_predict=5000, settings=Settings(**fields)
            ),
            lambda: Conversation(model, settings=Settings(**fields)),
        ):
            with pytest.raises(
                ScopeError, match="can't be run with a bounded cache: .*--policy full"
            ):
                open_it()


def test_plain_models_share_as_before(tiny_arch: Tiny) -> None:
    """Also one whose file names a window that llama.cpp does not use."""
    for path in (tiny_arch(arch="llama"), tiny_arch(arch="exaone4", attention__sliding_window=32)):
        with Model.load(path) as model:
            assert not model.has_fixed_state and not model.has_beside
            assert [one.layer for one in model.cell_layers] == [0, 1, 2, 3]
            with engine(model, 2, 300, prefix_cells=100) as made:
                assert made._cells.shares


LONG = {"n_ubatch": 32, "sampling": SamplingParams(temp=0, ignore_eos=True)}


@every_class
def test_the_last_turn_is_gone_back_over_without_reading_the_others(
    tiny_arch: Tiny, monkeypatch: pytest.MonkeyPatch, arch: str
) -> None:
    """However far it went: the window and the states at its beginning are kept."""
    path = tiny_arch(arch=arch)
    with converse(path, 1000, policy=None, n_predict=30, **LONG) as talk:
        for text in WORDS[:2]:
            say(talk, text)
        lengths = count_decoded(monkeypatch)
        ways = (lambda: talk.ask(WORDS[2])), talk.regenerate, (lambda: talk.edit(WORDS[3]))
        for change, n in zip(ways, (260, 260, 20), strict=True):
            lengths.clear()
            talk.n_predict = n
            assert len(finish(talk, change())) == n
            # its prompt, and what it wrote
            assert sum(lengths) <= len(talk.cached.turns[-1].tokens) + n
        with Forecast(talk.model) as forecast:
            run = {"n_recorded": CHAT_QUERIES, "n_beside": 2}
            found = forecast.of_run(talk.settings, 1000, bounded=True, **run)
        assert talk.stats.memory_bytes <= found.total
        kept = talk.cache.marks.n_bytes
        assert 0 < kept <= 2 * talk.cache.footprint.fixed
        assert talk.stats.fixed_bytes == talk.cache.footprint.fixed + kept
        lengths.clear()
        talk.undo()
        assert lengths == [] and talk.cache.n_past == sum(
            len(turn.tokens) + turn.n_decoded for turn in talk.cached.turns
        )
        expected, logits = say(talk, WORDS[4]), talk.context.logits()
    with converse(path, 1000, policy=None, n_predict=30, **LONG) as talk:
        for text in WORDS[:2]:
            say(talk, text)
        talk.n_predict = 20
        assert say(talk, WORDS[4]) == expected
        # cells lie elsewhere, so that sums are rounded otherwise
        assert np.allclose(talk.context.logits(), logits, rtol=1e-3, atol=1e-4)


@every_class
def test_copies_do_not_serve_where_cells_were_evicted_since(tiny_arch: Tiny, arch: str) -> None:
    path, found = tiny_arch(arch=arch), []
    for wanders in (True, False):
        with converse(path, 200, policy=None, n_predict=30, **LONG) as talk:
            say(talk, WORDS[0])
            if wanders:
                talk.n_predict = 260
                say(talk, WORDS[1])
                assert talk.stats.evicted > 0
                talk.undo()
            talk.n_predict = 40
            found.append((say(talk, WORDS[2]), holds(talk)))
    (written, there), (expected, as_if) = found
    assert written == expected and same(there, as_if)


@pytest.mark.parametrize("arch", ["gemma3", "qwen35"])
def test_a_stop_string_is_taken_back(
    tiny_arch: Tiny, monkeypatch: pytest.MonkeyPatch, arch: str
) -> None:
    found = []
    for end in ("the cat", ""):
        script(monkeypatch, "on it", "a rat " * 65 + end, "yes")
        with converse(
            tiny_arch(arch=arch), 1000, policy=None, stop=("the cat",), n_ubatch=32
        ) as talk:
            say(talk, WORDS[0])
            say(talk, WORDS[1])
            lengths = count_decoded(monkeypatch)
            n = len(say(talk, WORDS[2]))
            *_, before, last = talk.cached.turns
            # the answer is, where it can't be cut, but no turn before it
            assert sum(lengths) <= len(before.tail) + len(last.tokens) + n
            found.append((talk.messages, np.sort(talk.cache.positions(), axis=2)))
    assert found[0][0] == found[1][0]
    assert np.array_equal(found[0][1], found[1][1])


def test_the_default_on_a_model_without_rope(tiny_arch: Tiny) -> None:
    """Queries of its prompt are asked again without being turned: ggml would abort."""
    with converse(tiny_arch(arch="gpt2"), 110, n_predict=70) as talk:
        for text in WORDS[:3]:
            say(talk, text)
            check_budget(talk)
