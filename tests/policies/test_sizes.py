"""How budgets are divided, when a selection is due, and that the budget is hard."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scope_cpp.policies import DecodePolicy, Step, View, make_decode, make_prefill, parse_options
from scope_cpp.policies.scope_discontinuous import period

SCOPE = ["scope-slide", "scope-adaptive", "scope-discontinuous"]
UNIFIED = ["h2o", "tova", "vatp", "openvino"]
BOUNDED = ["streaming-llm", "streaming-llm sinks=auto", *UNIFIED, *SCOPE]
BOUNDED += ["r-kv window=1", "g-kv window=1"]  # by default more than the budgets of these tests
GROWING = ["scope-adaptive", "scope-discontinuous"]


def make(line: str) -> DecodePolicy:
    """The policy of ``name key=value ...``."""
    name, *options = line.split()
    return make_decode(name, parse_options(options))


def step(t: int, n_prompt: int, n_cells: int, since: int, n_predict: int | None) -> Step:
    return Step(n_prompt, n_prompt + t, n_predict, n_prompt, n_cells, 10**6, since)


def selections(policy: DecodePolicy, n_prompt: int, n_tokens: int, n_predict: int | None) -> list:
    """Selections of a run without an engine's own force: (t, cells before, cells after)."""
    pos, since, found = np.arange(n_prompt, dtype=np.int32), 0, []
    for t in range(n_tokens):
        if policy.due(step(t, n_prompt, pos.size, since, n_predict)):
            rows = pos.reshape(1, 1, -1)
            view = View(rows, np.sin(rows, dtype="f4"), n_prompt, n_prompt + t, n_predict, 10**6)
            view = replace(view, keys=view.scores[..., None], values=view.scores[..., None])
            kept = pos[policy.select(view)[0, 0]]
            found.append((t, pos.size, kept.size))
            pos, since = kept, 0
        pos, since = np.append(pos, np.int32(n_prompt + t)), since + 1
        assert pos.size <= policy.capacity(n_prompt, n_predict)
    return found


@pytest.mark.parametrize("name", BOUNDED)
@given(
    n_prompt=st.integers(1, 30),
    room=st.integers(6, 60),
    n_predict=st.none() | st.integers(1, 150),
)
def test_budget_is_hard_and_bounds_the_run(
    name: str, n_prompt: int, room: int, n_predict: int | None
) -> None:
    budget = n_prompt + room
    policy = make(name).resolve(budget, n_prompt, n_predict)
    assert policy.capacity(n_prompt, n_predict) <= budget
    found = selections(policy, n_prompt, n_predict or 150, n_predict)
    if n_predict is not None and n_predict <= room:
        assert found == []
    else:
        assert policy.capacity(n_prompt, n_predict) == budget
        assert found


@pytest.mark.parametrize("name", ["full", *BOUNDED])
@given(n_prompt=st.integers(0, 20), extra=st.integers(0, 40))
def test_below_the_minimum_the_message_gives_the_minimum(
    name: str, n_prompt: int, extra: int
) -> None:
    policy = make(name)
    with pytest.raises(ValueError, match="minimum of") as refusal:
        policy.resolve(-1, n_prompt, extra)
    minimum = int(str(refusal.value).partition("minimum of ")[2].split()[0])
    assert "\n" not in str(refusal.value)
    with pytest.raises(ValueError, match="minimum of"):
        policy.resolve(minimum - 1, n_prompt, extra)
    assert policy.resolve(minimum, n_prompt, extra).capacity(n_prompt, extra) <= minimum


@pytest.mark.parametrize("name", SCOPE)
def test_one_beta_given_leaves_the_rest_to_the_other(name: str) -> None:
    for options in ({"beta1": "10"}, {"beta2": "10"}):
        policy = make_decode(name, options).resolve(100 + 64, 100, 5000)
        assert sum(policy.pools()) + policy.slack_cells() == 64
        assert 10 in policy.pools()


@pytest.mark.parametrize("name", SCOPE)
def test_without_a_budget_the_papers_sizes(name: str) -> None:
    assert make_decode(name, {}).resolve(None, 100, 8192).pools() == (256, 256)
    assert make_decode(name, {"beta1": "9"}).resolve(None, 100, 8192).pools() == (9, 256)


@pytest.mark.parametrize("name", ["h2o", "streaming-llm"])
def test_one_pool_without_a_budget_gets_as_many_cells_as_scope(name: str) -> None:
    policy = make_decode(name, {}).resolve(None, 100, None)
    assert 100 + 512 <= policy.capacity(100, None) <= 100 + 512 + 1


@pytest.mark.parametrize(
    ("name", "budget", "recent", "interval"),
    [
        ("h2o", 1001, 500, 1),
        ("tova", 1000, 1, 1),
        ("r-kv", 1000, 8, 16),
        ("r-kv", 40, 8, 5),
        ("g-kv", 1000, 16, 16),
        ("openvino", 1000, 64, 32),
        ("openvino", 100, 44, 12),
    ],
)
def test_one_budget_gives_a_method_its_own_sizes(
    name: str, budget: int, recent: int, interval: int
) -> None:
    policy = make(name).resolve(budget, 30, None)
    assert (policy.recent, policy.interval) == (recent, interval)
    assert policy.heavy == budget - interval - recent
    assert policy.capacity(30, None) == budget
    given = make(f"{name} heavy=20 interval=3 window=1").resolve(budget, 30, None)
    assert (given.heavy, given.recent, given.interval) == (20, budget - 23, 3)


def test_derived_split_is_half_and_half() -> None:
    assert make_decode("scope-slide", {}).resolve(100 + 97, 100, None).pools() == (48, 48)
    assert make_decode("scope-slide", {}).resolve(100 + 98, 100, None).pools() == (49, 48)
    assert make_decode("scope-slide", {"interval": "16"}).resolve(212, 100, None).pools() == (
        48,
        48,
    )


def test_streaming_llm_as_scopes_authors_ran_it_keeps_the_prompt() -> None:
    policy = make("streaming-llm sinks=auto").resolve(278 + 97, 278, 865)
    assert (policy.sinks, policy.recent) == (278 + 48, 48)
    policy = make("streaming-llm sinks=auto recent=10").resolve(278 + 97, 278, 865)
    assert (policy.sinks, policy.recent) == (278 + 86, 10)


def test_streaming_prefill_derives_what_is_not_given() -> None:
    found = [
        make_prefill("streaming-llm", parse_options(options)).resolve(1000, 5000)
        for options in ([], ["alpha1=4"], ["alpha2=8"])
    ]
    assert [(policy.alpha1, policy.alpha2) for policy in found] == [(375, 375), (4, 746), (742, 8)]


@pytest.mark.parametrize("name", GROWING)
def test_steps_follow_the_authors_delta(name: str) -> None:
    # 4K/512 of the authors: delta = (4096 − 256) // 256 = 15
    policy = make(f"{name} beta1=256 beta2=256 growth=steps")
    assert [policy.history(t, 4096) for t in (0, 14, 15, 256, 4096)] == [0, 0, 1, 17, 256]


@given(room=st.integers(2, 2000), n_predict=st.integers(1, 200_000))
def test_discontinuous_slack_is_zeta_or_an_eighth(room: int, n_predict: int) -> None:
    policy = make_decode("scope-discontinuous", {}).resolve(room + 7, 7, n_predict)
    beta1, beta2 = policy.pools()
    slack = policy.slack_cells()
    assert beta1 + beta2 + slack == room
    assert abs(beta1 - beta2) <= 1
    zeta = period(0, beta1, beta2, n_predict)
    assert zeta <= slack or slack == max(1, room // 8)
    assert slack <= max(1, room // 8)


def test_discontinuous_with_explicit_betas_takes_what_the_budget_leaves() -> None:
    policy = make_decode("scope-discontinuous", {"beta1": "48", "beta2": "48"})
    assert policy.resolve(278 + 99, 278, 865).slack_cells() == 3


@pytest.mark.parametrize("name", SCOPE)
def test_explicit_betas_may_fill_the_budget_and_beta1_pays_for_the_slack(name: str) -> None:
    policy = make_decode(name, {"beta1": "48", "beta2": "48"})
    resolved = policy.resolve(278 + 96, 278, 865)
    assert resolved.pools() == (47, 48)
    assert resolved.capacity(278, 865) == 278 + 96
    with pytest.raises(ValueError, match="minimum of 374"):
        policy.resolve(278 + 95, 278, 865)


def test_discontinuous_selects_every_zeta_tokens_after_beta2() -> None:
    policy = make_decode("scope-discontinuous", {"beta1": "20", "beta2": "30", "slack": "17"})
    found = selections(policy, 10, 370, 370)  # ζ = (370 − 30) / 20 = 17
    assert [t for t, _, _ in found] == [30 + 17 * k for k in range(1, 20)]
    assert [after for _, _, after in found] == [10 + 30 + k for k in range(1, 20)]
    assert all(before - after <= 17 for _, before, after in found)


def test_no_selection_without_anything_to_evict() -> None:
    """With ζ = 1 the history grows by a cell in most steps, which then have nothing to do."""
    policy = make_decode("scope-discontinuous", {"beta1": "40", "beta2": "10", "slack": "1"})
    found = selections(policy, 10, 60, 60)
    assert len(found) == 10
    assert all(after == before - 1 for _, before, after in found)


def test_discontinuous_with_little_slack_selects_early_only_when_full() -> None:
    policy = make_decode("scope-discontinuous", {"beta1": "20", "beta2": "30", "slack": "5"})
    found = selections(policy, 10, 370, 370)
    assert [t for t, _, _ in found][:6] == [47, 64, 81, 98, 115, 132]
    assert max(before for _, before, _ in found) == 10 + 20 + 30 + 5
    gaps = np.diff([t for t, _, _ in found])
    assert gaps.max() == 17
    assert gaps.min() < 17


@given(beta1=st.integers(1, 60), beta2=st.integers(1, 60))
def test_unknown_longest_output_doubles_and_history_never_shrinks(beta1: int, beta2: int) -> None:
    policy = make_decode("scope-adaptive", {"beta1": str(beta1), "beta2": str(beta2)})
    first = 2 * (beta1 + beta2)
    sizes = [policy.history(t, None) for t in range(5 * first)]
    assert sizes == sorted(sizes)
    assert sizes[beta2] == 0
    assert sizes[first] == sizes[-1] == beta1
    for doublings, t in enumerate([first - 1, first, 2 * first, 4 * first]):
        assert period(t, beta1, beta2, None) == max(1, ((first << doublings) - beta2) // beta1)


@pytest.mark.parametrize("name", GROWING)
def test_adaptive_history_follows_the_formula(name: str) -> None:
    policy = make_decode(
        name,
        {"beta1": "256", "beta2": "256", "slack": "9"}
        if "dis" in name
        else {"beta1": "256", "beta2": "256"},
    )
    # the authors' 4K/512 setting grows by a cell every 15 tokens, as T − β2 = 15·256
    assert [policy.history(256 + 15 * k, 256 + 15 * 256) for k in (0, 1, 2, 255, 256)] == [
        0, 1, 2, 255, 256,
    ]  # fmt: skip


@pytest.mark.parametrize("n_predict", [5, 30, 34])
def test_adaptive_history_past_the_longest_output_stays_full(n_predict: int) -> None:
    policy = make_decode("scope-adaptive", {"beta1": "20", "beta2": "30"})
    assert [policy.history(t, n_predict) for t in (29, 30, 35, 100)] == [0, 0, 20, 20]


@pytest.mark.parametrize("name", SCOPE)
def test_unresolved_sizes_are_an_error_not_a_guess(name: str) -> None:
    with pytest.raises(ValueError, match="resolve"):
        make_decode(name, {}).capacity(10, 10)


@pytest.mark.parametrize("name", ["h2o", "streaming-llm"])
def test_unresolved_single_pool_is_an_error(name: str) -> None:
    with pytest.raises(ValueError, match="resolve"):
        make_decode(name, {}).due(step(1, 1, 2, 1, None))


def test_full_is_never_due_and_needs_a_longest_output() -> None:
    full = make_decode("full", {}).resolve(None, 10, 5)
    assert not full.due(step(5, 10, 15, 5, 5))
    assert full.capacity(10, 5) == 15
    with pytest.raises(ValueError, match="unknown"):
        full.capacity(10, None)
    rows = np.arange(3, dtype=np.int32).reshape(1, 1, 3)
    view = View(rows, np.zeros((1, 1, 3), np.float32), 1, 3, None, 2)
    for select in (full.select, lambda v: make_prefill("full", {}).select(v, True)):
        with pytest.raises(ValueError, match="keeps all 3"):
            select(view)


@pytest.mark.parametrize("name", SCOPE)
def test_small_beta2_is_warned_about(name: str) -> None:
    policy = make_decode(name, {"beta2": "48"})
    assert "beta2 = 48" in policy.warnings()[0]
    assert replace(policy, beta2=128).warnings() == ()
    assert make_decode(name, {}).warnings() == ()


@pytest.mark.parametrize("name", ["h2o", "snapkv", "streaming-llm"])
def test_prefill_sizes(name: str) -> None:
    policy = make_prefill(name, {})
    assert policy.resolve(1000, 5000).cells(5000) == 750
    assert policy.resolve(1000, 500).cells(500) == 500
    assert policy.resolve(None, 1000).cells(1000) == 600
    explicit = {"alpha1": "100", "alpha2": "9"} if name != "snapkv" else {"alpha1": "100"}
    assert make_prefill(name, explicit).resolve(1000, 5000).cells(5000) < 150
    assert "drops" in policy.warnings()[0]
    with pytest.raises(ValueError, match="minimum of"):
        make_prefill(name, {"alpha1": "1000"}).resolve(1000, 5000)
    with pytest.raises(ValueError, match="resolve"):
        policy.cells(10)


@given(budget=st.integers(40, 4000), n_prompt=st.integers(1, 9000))
def test_any_prefill_leaves_room_for_any_decode(budget: int, n_prompt: int) -> None:
    for prefill in ("h2o", "snapkv", "streaming-llm"):
        cells = make_prefill(prefill, {}).resolve(budget, n_prompt).cells(n_prompt)
        for name in BOUNDED:
            policy = make(name).resolve(budget, cells, None)
            assert policy.capacity(cells, None) <= budget


@pytest.mark.parametrize("pool, interval", [(20, 1), (96, 3), (1024, 32), (5000, 32)])
def test_a_derived_interval_follows_the_pool(pool: int, interval: int) -> None:
    policy = make_decode("scope-slide", {"interval": "auto"}).resolve(100 + pool, 100, None)
    assert policy.slack_cells() == interval
    assert policy.capacity(100, None) == 100 + pool
