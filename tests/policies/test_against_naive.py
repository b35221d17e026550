"""Every strategy and score rule agrees with the naive implementation, step by step."""

from __future__ import annotations

from dataclasses import replace

import pytest

from scope_cpp.policies import (
    DecodePolicy,
    PrefillPolicy,
    decode_policies,
    make_decode,
    make_prefill,
    prefill_policies,
)

from . import naive
from .trace import Engine, Trace

SCORE_RULES = [
    {"score": "accumulate"},
    {"score": "accumulate", "decay": 0.9},
    {"score": "accumulate", "grace": 5},
    {"score": "window", "window": 8},
    {"score": "last"},
]
# how scores are made and weighed, on one strategy of each kind
RANKINGS = [
    {"score": "peak", "decay": 0.95},
    {"score": "last-use", "decay": 0.95},
    {"score": "global", "window": 6, "decay": 0.95},
    {"power": 0.5},
    {"lifetime": 1.0},
    {"lifetime": 0.5, "decay": 0.9},
    {"values": 1.0},
    {"mix": 0.5},
    {"mix": 1.0, "mix_over": "model", "mix_by": "max"},
    {"redundancy": 0.9},
    {"smooth": 3},
    {"smooth": 5, "smooth_by": "avg"},
    {"span": 4},
    {"lifetime": 1.0, "values": 0.5, "mix": 0.3, "smooth": 3, "redundancy": 0.2, "span": 3},
]
STRATEGIES = [
    ("scope-slide", "slide", {"beta1": 12, "beta2": 10}),
    ("scope-slide", "slide", {"beta1": 12, "beta2": 10, "interval": 7}),
    ("scope-adaptive", "adaptive", {"beta1": 12, "beta2": 10}),
    ("scope-discontinuous", "discontinuous", {"beta1": 12, "beta2": 10, "slack": 19}),
    ("scope-discontinuous", "discontinuous", {"beta1": 40, "beta2": 10, "slack": 3}),
    ("h2o", "h2o", {"heavy": 20, "recent": 12}),
    ("h2o", "h2o", {"heavy": 20, "recent": 12, "interval": 5}),
]


def build(name: str, options: dict[str, object]) -> DecodePolicy:
    if name == "h2o":
        options = {"interval": 1, **options}
    return make_decode(name, {key: str(value) for key, value in options.items()})


def rule(strategy: str, options: dict[str, object], **more: object) -> naive.Rule:
    return naive.Rule(strategy, **{k: v for k, v in options.items() if k != "slack"}, **more)


def compare(
    trace: Trace, policy: DecodePolicy, expected: naive.Rule, prefill: PrefillPolicy | None = None
) -> Engine:
    """Follow the trace on both sides; returns the engine for what else is to be checked."""
    engine = Engine(trace, policy, expected.capacity, expected.n_predict)
    engine.read_prompt(prefill)
    heads = {head: naive.Head() for head in trace.heads}
    for head, state in heads.items():
        for position in range(trace.n_prompt):
            state.attend(position, trace.weigh(head))
        if prefill is not None:
            state.held, state.log = naive_prompt(state, prefill), []
    since = 0 if prefill is not None else trace.n_prompt
    for kept in engine.write():
        n_past, t = engine.n_past, engine.n_past - trace.n_prompt
        if t > 0:
            since += 1
            for head, state in heads.items():
                state.attend(n_past - 1, trace.weigh(head))
        n_cells = len(heads[0, 0].held)
        if naive.is_due(expected, engine.n_prompt_cells, n_cells, t, since):
            since = 0
            scores = {head: state.scores(expected) for head, state in heads.items()}
            scores = naive.compete(expected, scores, trace.n_prompt, n_past, trace.key, trace.value)
            for head, state in heads.items():
                held = naive.choose(expected, state.held, scores[head], trace.n_prompt, n_past)
                state.held = held
        assert kept == [state.held for state in heads.values()], f"after {t} tokens"
    return engine


def naive_prompt(state: naive.Head, prefill: PrefillPolicy) -> set[int]:
    options = vars(prefill)
    if prefill.name == "h2o":
        return naive.prefill_h2o(state, options["alpha1"], options["alpha2"])
    if prefill.name == "streaming-llm":
        return naive.prefill_streaming(state, options["alpha1"], options["alpha2"])
    names = ("alpha1", "window", "kernel", "pooling")
    return naive.prefill_snapkv(state, *(options[name] for name in names))


# whole weights tie often; sums that decay are not exact in float32, so they get a softmax only
SCORINGS = [(rule, False) for rule in SCORE_RULES]
SCORINGS += [(rule, True) for rule in SCORE_RULES if "decay" not in rule]


@pytest.mark.parametrize(("scoring", "ties"), SCORINGS, ids=str)
@pytest.mark.parametrize(("name", "strategy", "sizes"), STRATEGIES, ids=str)
def test_every_strategy_and_score_rule(
    name: str, strategy: str, sizes: dict[str, object], scoring: dict[str, object], ties: bool
) -> None:
    trace, n_predict = Trace.random(20, 220, ties), 240
    options = {**sizes, **scoring}
    policy = build(name, options)
    capacity = policy.capacity(trace.n_prompt, n_predict)
    engine = compare(trace, policy, rule(strategy, options, capacity=capacity, n_predict=n_predict))
    assert engine.selections > 10
    assert engine.pos.shape[-1] < capacity


@pytest.mark.parametrize("ranking", RANKINGS, ids=str)
@pytest.mark.parametrize("sizes", [STRATEGIES[1], STRATEGIES[6]], ids=str)
def test_every_ranking(
    sizes: tuple[str, str, dict[str, object]], ranking: dict[str, object]
) -> None:
    name, strategy, options = sizes
    options, trace = {**options, **ranking}, Trace.random(15, 70)
    policy = build(name, options)
    expected = rule(strategy, options, capacity=policy.capacity(15, None))
    assert compare(trace, policy, expected).selections > 5


# the methods' own defaults, said here a second time: name, budget, what it resolves to
METHODS = [
    ("tova", 26, {"heavy": 24, "recent": 1, "interval": 1, "score": "last", "mix": 1.0}),
    ("vatp", 60, {"heavy": 30, "recent": 29, "interval": 1, "values": 1.0, "sinks": 20}),
    (
        "r-kv",
        56,
        {"heavy": 41, "recent": 8, "interval": 7, "score": "window", "window": 8, "smooth": 7,
         "redundancy": 0.9},
    ),
    (
        "g-kv",
        64,
        {"heavy": 40, "recent": 16, "interval": 8, "score": "global", "window": 16,
         "decay": 0.99826},
    ),
    (
        "openvino",
        200,
        {"heavy": 111, "recent": 64, "interval": 25, "sinks": 32, "lifetime": 1.0, "mix": 1.0,
         "span": 32},
    ),
]  # fmt: skip


@pytest.mark.parametrize(("name", "budget", "known"), METHODS, ids=lambda value: str(value)[:12])
def test_methods_are_what_their_papers_say(
    name: str, budget: int, known: dict[str, object]
) -> None:
    trace, policy = Trace.random(15, 2 * budget), build(name, {}).resolve(budget, 15, None)
    expected = rule("h2o", known, capacity=budget)
    assert policy.capacity(15, None) == budget
    assert compare(trace, policy, expected).selections > 7


@pytest.mark.parametrize(("name", "strategy", "sizes"), STRATEGIES[2:4], ids=str)
@pytest.mark.parametrize("n_predict", [240, None])
def test_growth_as_in_the_authors_code(
    name: str, strategy: str, sizes: dict[str, object], n_predict: int | None
) -> None:
    options = {**sizes, "growth": "steps", "score": "last"}
    policy = build(name, options)
    capacity = policy.capacity(20, n_predict)
    expected = rule(strategy, options, capacity=capacity, n_predict=n_predict)
    assert compare(Trace.random(20, 220), policy, expected).selections > 5


@pytest.mark.parametrize("n_prompt", [1, 3, 20])
def test_streaming_llm(n_prompt: int) -> None:
    policy = build("streaming-llm", {"sinks": 4, "recent": 25})
    capacity = policy.capacity(n_prompt, None)
    compare(
        Trace.random(n_prompt, 200),
        policy,
        naive.Rule("streaming", capacity, sinks=4, recent=25),
    )


@pytest.mark.parametrize("n_prompt", [1, 2, 9])
@pytest.mark.parametrize(("name", "strategy", "sizes"), STRATEGIES, ids=str)
def test_short_prompts_and_unknown_longest_output(
    n_prompt: int, name: str, strategy: str, sizes: dict[str, object]
) -> None:
    policy = build(name, sizes)
    capacity = policy.capacity(n_prompt, None)
    compare(Trace.random(n_prompt, 260), policy, rule(strategy, sizes, capacity=capacity))


@pytest.mark.parametrize(
    "prefill",
    [
        make_prefill("h2o", {"alpha1": "9", "alpha2": "4"}),
        make_prefill("snapkv", {"alpha1": "9", "window": "6", "kernel": "5"}),
        make_prefill("snapkv", {"alpha1": "9", "window": "6", "kernel": "3", "pooling": "max"}),
        make_prefill("snapkv", {"alpha1": "60", "window": "6"}),
        make_prefill("streaming-llm", {"alpha1": "4", "alpha2": "9"}),
    ],
    ids=repr,
)
@pytest.mark.parametrize(("name", "strategy", "sizes"), STRATEGIES, ids=str)
def test_any_prefill_with_any_decode(
    prefill: PrefillPolicy, name: str, strategy: str, sizes: dict[str, object]
) -> None:
    policy, trace = build(name, sizes), Trace.random(40, 80)
    capacity = policy.capacity(prefill.cells(40), 100)
    compare(trace, policy, rule(strategy, sizes, capacity=capacity, n_predict=100), prefill)


PAIRS = [
    (before, after)
    for before, prefill in prefill_policies().items()
    for after, decode in decode_policies().items()
    if after != "full" and not (getattr(prefill, "uneven", 0) or getattr(decode, "uneven", 0))
]


@pytest.mark.parametrize(("before", "after"), PAIRS)
def test_every_prefill_goes_with_every_decode(before: str, after: str) -> None:
    trace, budget = Trace.random(50, 60), 64
    size = {"alpha1": "12"} if before != "full" else {}
    prefill = make_prefill(before, size).resolve(budget, 50)
    cells = prefill.cells(50)
    small = {"window": 4} if after in ("r-kv", "g-kv") else {}
    policy = build(after, small).resolve(budget, cells, 60)
    engine = Engine(trace, policy, budget, 60)
    engine.read_prompt(prefill)
    assert engine.n_prompt_cells == cells
    assert all(len(head) <= budget for heads in engine.write() for head in heads)
    assert engine.n_past == 110
    assert engine.selections > 0


@pytest.mark.parametrize("missing", [1, 5, 12, 15, 20])
@pytest.mark.parametrize(("name", "strategy", "sizes"), STRATEGIES, ids=str)
def test_cache_smaller_than_the_policy_wants(
    missing: int, name: str, strategy: str, sizes: dict[str, object]
) -> None:
    """The engine then forces a selection whenever the cache is full; the history gives way."""
    trace, policy = Trace.random(20, 160), build(name, sizes)
    small = max(21, policy.capacity(20, None) - missing)
    full = rule(strategy, sizes, capacity=small, n_predict=300)
    compare(trace, policy, full)
    compare(trace, policy, replace(full, n_predict=None))
