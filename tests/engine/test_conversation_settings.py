"""Policies and budgets that change while a conversation is held."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from scope_cpp.engine.context import Context
from scope_cpp.engine.sampling import SamplingParams
from scope_cpp.errors import ScopeError, UsageError
from scope_cpp.native import kv_evict
from tests.conftest import Tiny
from tests.engine.talk import WORDS, check_budget, converse, count_decoded, finish, holds, same, say

POOLS = ("beta1=16", "beta2=16", "interval=4")


@pytest.mark.parametrize("first", ["scope-slide", "full"])
@pytest.mark.parametrize(
    "changes",
    [
        {"policy": "scope-adaptive", "options": ("beta1=10", "beta2=9")},
        {"policy": "h2o", "options": ()},
        {"policy": "streaming-llm", "options": ()},
        {"policy": "scope-slide", "granularity": "cell"},
        {"prefill": "snapkv"},
    ],
    ids=str,
)
def test_another_policy_from_the_next_answer_on(
    tiny: Tiny, first: str, changes: dict[str, Any]
) -> None:
    options = POOLS if first == "scope-slide" else ()
    with converse(tiny(), 240, n_predict=50, policy=first, options=options) as talk:
        say(talk, WORDS[0])
        before = holds(talk)
        talk.set_policy(**changes)
        assert same(holds(talk), before)
        for text in WORDS[1:4]:
            say(talk, text)
            pool = talk.pools()[-1]
            if "beta1=10" in changes.get("options", ()):
                assert pool.n_cells <= 20 < pool.n_tokens
        went = finish(talk, talk.regenerate())
        assert went == finish(talk, talk.regenerate())
        talk.undo()
        assert len(talk.messages) == 6
        check_budget(talk)


def test_back_to_single_heads(tiny: Tiny) -> None:
    fields = {"n_predict": 60, "options": POOLS, "granularity": "cell"}
    with converse(tiny(), 600, **fields) as talk:
        say(talk, WORDS[0])
        rows = talk.cache.positions()
        assert (rows == rows[0, 0]).all()
        talk.set_policy(granularity="head")
        say(talk, WORDS[1])
        rows = np.sort(talk.cache.positions(), axis=2)
        assert not (rows == rows[0, 0]).all()


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"policy": "sloth"}, "scope-slide"),
        ({"options": ("gamma=1",)}, "beta1"),
        (
            {
                "policy": "scope-slide",
                "options": ("score=window", "window=140", "beta1=40", "beta2=150"),
            },
            "queries",
        ),
        ({"type_k": "q8_0"}, "type_k can't change.*policy"),
        ({"budget": 10}, "budget can't change"),
    ],
)
def test_what_cannot_change_is_refused(tiny: Tiny, changes: dict[str, Any], message: str) -> None:
    with converse(tiny(), 400, n_predict=50, options=POOLS) as talk:
        say(talk, WORDS[0])
        before, settings = holds(talk), talk.settings
        with pytest.raises(ScopeError, match=message):
            talk.set_policy(**changes)
        assert same(holds(talk), before) and talk.settings == settings
        went = say(talk, WORDS[1])
    with converse(tiny(), 400, n_predict=50, options=POOLS) as talk:
        say(talk, WORDS[0])
        assert say(talk, WORDS[1]) == went


def test_other_sampling(tiny: Tiny) -> None:
    with converse(tiny(), 600, n_predict=30, sampling=SamplingParams(seed=3)) as talk:
        say(talk, WORDS[0])
        with pytest.raises(UsageError):
            talk.set_sampling(SamplingParams(grammar="root ::= ("))
        assert talk.sampling.seed == 3 and talk.sampling.grammar is None
        talk.set_sampling(SamplingParams(grammar='root ::= "yes"'))
        say(talk, WORDS[1])
        assert talk.messages[-1]["content"] == "yes"
        assert talk.sampling.seed != -1


def test_another_system_message(tiny: Tiny) -> None:
    with converse(tiny(), 600, n_predict=30, system="be good") as talk:
        say(talk, WORDS[0])
        talk.set_system("be bad")
        assert talk.messages == [{"role": "system", "content": "be bad"}]
        assert kv_evict.n_used(talk.context.ptr) == 0 and talk.pools() == []
        went = say(talk, WORDS[0])
        talk.clear()
        assert talk.messages == [{"role": "system", "content": "be bad"}]
        assert say(talk, WORDS[0]) == went
    with converse(tiny(), 600, n_predict=30, system="be bad") as talk:
        assert say(talk, WORDS[0]) == went


# budgets


@pytest.mark.parametrize("policy", ["scope-slide", "full"])
def test_a_larger_budget(tiny: Tiny, policy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cells move without being read again, and the answers are those of a large one."""
    options = POOLS if policy == "scope-slide" else ()
    fields = {"n_predict": 40, "policy": policy, "options": options}
    with converse(tiny(), 300, **fields) as talk:
        say(talk, WORDS[0])
        before = holds(talk)
        lengths = count_decoded(monkeypatch)
        talk.set_budget("1k")
        assert lengths == [] and same(holds(talk), before)
        assert talk.cache.capacity == talk.context.n_cells == 1024
        went, rows = say(talk, WORDS[1]), holds(talk)
        for text in WORDS[2:]:
            say(talk, text)
    with converse(tiny(), 1024, **fields) as talk:
        say(talk, WORDS[0])
        assert say(talk, WORDS[1]) == went
        assert same(holds(talk), rows)


@pytest.mark.parametrize("policy", ["scope-slide", "h2o"])
def test_a_smaller_budget(tiny: Tiny, policy: str) -> None:
    """Finished answers give way, the oldest first, or what the policy ranks lowest."""
    with converse(tiny(), 600, n_predict=60, policy=policy) as talk:
        for text in WORDS[:3]:
            say(talk, text)
        assert talk.cache.stats.cells_used > 250
        talk.set_budget(200)
        check_budget(talk)
        assert talk.context.n_cells == 256
        assert 199 <= talk.cache.stats.cells_used <= 200
        if policy == "scope-slide":
            kinds = [(p.kind, p.n_cells, p.n_tokens) for p in talk.pools()]
            assert all(cells == tokens for kind, cells, tokens in kinds if kind != "answer")
            answers = [cells - tokens for kind, cells, tokens in kinds if kind == "answer"]
            assert answers[0] < 0 == answers[1] == answers[2]
        for text in WORDS[3:]:
            say(talk, text)


@pytest.mark.parametrize(
    "budget, message",
    [(70, "may not give way"), ("50%", "-c"), ("lots", "not understood"), (3, "pool takes")],
)
def test_a_budget_that_cannot_be(tiny: Tiny, budget: Any, message: str) -> None:
    with converse(tiny(), 600, n_predict=60, options=("interval=4",)) as talk:
        for text in WORDS[:3]:
            say(talk, text)
        before, settings = holds(talk), talk.settings
        with pytest.raises(ScopeError, match=message):
            talk.set_budget(budget)
        assert same(holds(talk), before) and talk.settings == settings
        check_budget(talk)


def test_no_memory_for_another_budget(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    """The old context is back, with all that it held."""
    fields = {"n_predict": 60, "options": POOLS}
    with converse(tiny(), 600, **fields) as talk:
        for text in WORDS[:3]:
            say(talk, text)
        before = holds(talk)
        opened = Context.__init__

        def failing(self: Context, model: Any, params: Any) -> None:
            if params.n_cells == 200:
                raise ScopeError("no memory")
            opened(self, model, params)

        monkeypatch.setattr(Context, "__init__", failing)
        with pytest.raises(ScopeError, match="no memory"):
            talk.set_budget(200)
        assert same(holds(talk), before)
        went = [say(talk, text) for text in WORDS[3:]]
    with converse(tiny(), 600, **fields) as talk:
        for text in WORDS[:3]:
            say(talk, text)
        assert [say(talk, text) for text in WORDS[3:]] == went
