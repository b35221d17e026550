"""Going back in a conversation: as if what was left had never been."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from scope_cpp.engine.context import Context
from scope_cpp.engine.conversation import Conversation
from scope_cpp.engine.interrupts import whole_step
from scope_cpp.engine.sampling import SamplingParams
from scope_cpp.engine.turns import Account
from scope_cpp.errors import ScopeError
from tests.conftest import Tiny
from tests.engine.drive import F32, GRANULARITIES
from tests.engine.talk import (
    FORGETFUL,
    WORDS,
    Change,
    check_budget,
    converse,
    count_decoded,
    finish,
    holds,
    same,
    say,
    script,
)

DRAWN = SamplingParams(seed=3)

POOLS = ("beta1=16", "beta2=16", "interval=4")
SIZES: dict[str, dict[str, Any]] = {
    "fits": {"budget": 1000, "n_predict": 25},
    "evicts": {"budget": 600, "n_predict": 60, "options": POOLS},
    "gives way": {"budget": 180, "n_predict": 60, "options": POOLS},
    "h2o": {"budget": 130, "n_predict": 50, "policy": "h2o"},
    "window": {
        "budget": 130,
        "n_predict": 50,
        "policy": "h2o",
        "options": ("score=window", "window=8", "interval=3"),
    },
}
SIZES["default"] = {"budget": 130, "n_predict": 50, "policy": None}
# longer than most prompts here: what else is recorded depends on where it was gone back
AHEAD = "ahead=40"
SIZES |= {
    "ahead": {"budget": 600, "n_predict": 60, "options": (*POOLS, AHEAD)},
    "ahead, gives way": {"budget": 180, "n_predict": 60, "options": (*POOLS, AHEAD)},
    "ahead alone": {"budget": 180, "n_predict": 60, "options": (*POOLS, AHEAD, "score=none")},
    "ahead, h2o": {"budget": 130, "n_predict": 50, "policy": "h2o", "options": (AHEAD,)},
}
SIZES["fits, foreseen"] = {"budget": 1000, "n_predict": 25, "policy": "h2o", "options": (AHEAD,)}
FORESEES = tuple(size for size in SIZES if "ahead" in size)
EVICT = ("evicts", "gives way", "h2o", "window", "default", *FORESEES)


def scores(talk: Conversation) -> F32:
    """What the policies made of the attention."""
    talk.cache.positions()
    return talk.cache.ledger.scores


def undo(talk: Conversation) -> None:
    assert talk.undo() == WORDS[2]
    say(talk, WORDS[3])


def undo_twice(talk: Conversation) -> None:
    talk.undo()
    talk.undo()
    say(talk, WORDS[3])


def edit(talk: Conversation) -> None:
    finish(talk, talk.edit(WORDS[3]))


def edit_after_regenerating(talk: Conversation) -> None:
    finish(talk, talk.regenerate())
    finish(talk, talk.edit(WORDS[3]))


def undo_all(talk: Conversation) -> None:
    for _ in range(3):
        talk.undo()
    assert talk.messages == [] and talk.cache.stats.cells_used == 0
    say(talk, WORDS[3])


# how it is gone back, and what a conversation that never went there was asked
WAYS: dict[str, tuple[Change, tuple[int, ...]]] = {
    "undo": (undo, (0, 1, 3)),
    "undo twice": (undo_twice, (0, 3)),
    "undo all": (undo_all, (3,)),
    "edit": (edit, (0, 1, 3)),
    "edit after regenerating": (edit_after_regenerating, (0, 1, 3)),
}


@cache
def straight_on(path: Path, size: str, asked: tuple[int, ...]) -> Any:
    """The last answer, and what is held then, of a conversation that never went back."""
    with converse(path, **SIZES[size], sampling=DRAWN) as talk:
        for i in asked:
            say(talk, WORDS[i])
        straight = say(talk, WORDS[4]), holds(talk), talk.context.logits(), scores(talk)
        assert (talk.cache.n_past > talk.cache.stats.cells_used) == (size in EVICT)
        return straight


@pytest.mark.parametrize(
    "way, size",
    [
        *[(way, size) for way in WAYS for size in ("evicts", "gives way")],
        *[("undo twice", size) for size in ("fits", "h2o", "window", "default")],
        *[("edit after regenerating", size) for size in ("fits", "h2o")],
        *[(way, size) for way in ("undo", "edit after regenerating") for size in FORESEES],
        *[(way, "fits, foreseen") for way in ("undo", "edit after regenerating")],
    ],
)
def test_as_if_it_had_never_been(tiny: Tiny, way: str, size: str) -> None:
    change, asked = WAYS[way]
    fields = {**SIZES[size], "sampling": DRAWN}
    with converse(tiny(), **fields) as talk:
        for text in WORDS[:3]:
            say(talk, text)
        change(talk)
        check_budget(talk)
        went = say(talk, WORDS[4]), holds(talk), talk.context.logits(), scores(talk)
    straight = straight_on(tiny(), size, asked)
    assert went[0] == straight[0]
    assert same(went[1], straight[1])
    assert np.array_equal(went[2], straight[2])
    assert np.array_equal(went[3], straight[3])


@pytest.mark.parametrize("granularity", GRANULARITIES)
@pytest.mark.parametrize("size", EVICT)
def test_greedy_answers_written_anew_are_the_same(tiny: Tiny, size: str, granularity: str) -> None:
    with converse(tiny(), **SIZES[size], granularity=granularity) as talk:
        for text in WORDS[:3]:
            first = say(talk, text)
        before, logits = holds(talk), talk.context.logits()
        for _ in range(2):
            assert finish(talk, talk.regenerate()) == first
            assert same(holds(talk), before)
            assert np.array_equal(talk.context.logits(), logits)


def test_another_draw_each_time(tiny: Tiny) -> None:
    with converse(tiny(), 1000, n_predict=30, sampling=DRAWN) as talk:
        say(talk, WORDS[0])
        answers = [say(talk, WORDS[1])]
        for _ in range(3):
            answers.append(finish(talk, talk.regenerate()))
        assert len({tuple(answer) for answer in answers}) == 4
        assert [m["content"] for m in talk.messages][::2] == [*WORDS[:2]]
        talk.undo()
        assert say(talk, WORDS[1]) == answers[0]
    with converse(tiny(), 1000, n_predict=30, sampling=SamplingParams(seed=4)) as talk:
        say(talk, WORDS[0])
        assert say(talk, WORDS[1]) != answers[0]


def test_going_back_reads_no_more_than_it_must(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nothing older was touched, only the last batch of the prompt is read again."""
    with converse(tiny(), **SIZES["evicts"]) as talk:
        say(talk, WORDS[0])
        say(talk, WORDS[1])
        assert talk.stats.evicted > 0
        n_prompt = talk.stats.n_prompt
        lengths = count_decoded(monkeypatch)
        next(answer := talk.regenerate())
        assert lengths == [n_prompt]
        answer.close()
        lengths.clear()
        talk.undo()
        assert lengths == []


def test_thoughts_that_were_left_out_do_not_come_back(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    def hold(*steps: Any) -> dict[str, Any]:
        with converse(tiny(), 1000, template=FORGETFUL) as talk:
            script(monkeypatch, "<think>well\n</think>one", "two", "three")
            say(talk, "first")
            for step in steps:
                step(talk)
            return holds(talk)

    def second(talk: Conversation) -> None:
        say(talk, "second")

    def back(talk: Conversation) -> None:
        talk.undo()
        talk_texts = ["two"]
        script(monkeypatch, *talk_texts)

    went, straight = hold(second, back, second), hold(second)
    assert same(went, straight)


# interrupted


class Interrupt:
    """Raise an error in the n-th batch from now on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, n: int, error: type[BaseException]) -> None:
        decode, left = Context.decode, [n]

        def failing(context: Context, tokens: Sequence[int], *args: Any, **more: Any) -> None:
            left[0] -= 1
            if left[0] == 0:
                raise error
            decode(context, tokens, *args, **more)

        monkeypatch.setattr(Context, "decode", failing)


@cache
def uninterrupted(path: Path, size: str) -> list[int]:
    """The third answer."""
    with converse(path, **SIZES[size], n_ubatch=32) as talk:
        for text in WORDS[:3]:
            answer = say(talk, text)
        return answer


@pytest.mark.parametrize("error", [KeyboardInterrupt, ScopeError])
@pytest.mark.parametrize("size", [size for size in SIZES if size not in FORESEES[1:]])
@pytest.mark.parametrize("n", [1, 2])
def test_interrupted_while_the_prompt_is_read(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch, n: int, size: str, error: type[BaseException]
) -> None:
    if n == 2 and "foreseen" in size:
        pytest.skip("the turn is read in one call: there is no second one to interrupt")
    fields = {**SIZES[size], "n_ubatch": 32}
    with converse(tiny(), **fields) as talk:
        say(talk, WORDS[0])
        say(talk, WORDS[1])
        messages, n_past = talk.messages, talk.cache.n_past
        with monkeypatch.context() as patch:
            Interrupt(patch, n, error)
            answer = talk.ask("something that is a little longer than two batches of 32 tokens are")
            with pytest.raises(error):
                next(answer)
        answer.close()
        assert answer.text == "" and list(answer) == []
        assert talk.messages == messages
        check_budget(talk)
        assert size in ("h2o", "window", "default") or talk.cache.n_past == n_past
        went = say(talk, WORDS[2])
        assert talk.cache.n_past > n_past
    # what gave way for a turn that was interrupted stays away
    if size in ("fits", "evicts", "ahead"):
        assert went == uninterrupted(tiny(), size)


LONG = " ".join(f"word{i}" for i in range(150))  # some 700 tokens
READERS: dict[str, dict[str, Any]] = {
    "default": {"budget": 4096, "policy": None},
    "pools": {"budget": 4096},
    "h2o": {"budget": 4096, "policy": "h2o"},
    "full": {"budget": 4096, "policy": "full"},
    "cells by hand": {"budget": 4096, "policy": None, "options": ("recent=200",)},
}


@pytest.mark.parametrize("reader", READERS)
def test_ctrl_c_waits_for_one_physical_batch(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch, reader: str
) -> None:
    """Where a policy lets thousands of tokens in at once, too; the conversation is as before."""
    fields = {**READERS[reader], "n_predict": 5, "n_ubatch": 64, "sampling": DRAWN}
    with converse(tiny(n_ctx_train=4096), **fields) as talk:
        say(talk, WORDS[0])
        before, messages, n_past = holds(talk), talk.messages, talk.cache.n_past
        with monkeypatch.context() as patch:
            lengths = press_ctrl_c(patch, at=2)
            with pytest.raises(KeyboardInterrupt):
                next(talk.ask(LONG))
        most = max(64, talk.cache.scorer.ring)
        assert len(lengths) == 2 and sum(lengths) <= 2 * most
        assert talk.messages == messages and talk.cache.n_past == n_past
        assert same(holds(talk), before)
        check_budget(talk)
        went = say(talk, LONG), holds(talk), talk.context.logits()
    with converse(tiny(n_ctx_train=4096), **fields) as talk:
        say(talk, WORDS[0])
        straight = say(talk, LONG), holds(talk), talk.context.logits()
    assert went[0] == straight[0] and same(went[1], straight[1])
    assert np.array_equal(went[2], straight[2])


@pytest.mark.parametrize("reader", READERS)
def test_the_end_of_a_long_prompt_is_read_again_in_one_physical_batch(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch, reader: str
) -> None:
    fields = {**READERS[reader], "n_predict": 5, "n_ubatch": 64}
    with converse(tiny(n_ctx_train=4096), **fields) as talk:
        first = say(talk, LONG)
        lengths = count_decoded(monkeypatch)
        assert finish(talk, talk.regenerate()) == first
        assert lengths[0] <= max(64, talk.cache.scorer.ring)
        assert set(lengths[1:]) == {1}


def press_ctrl_c(monkeypatch: pytest.MonkeyPatch, at: int) -> list[int]:
    """Send the signal in the `at`-th batch from now on; return the lengths of all of them."""
    lengths: list[int] = []
    decode = Context.decode

    def pressing(self: Context, tokens: Sequence[int], *args: Any, **more: Any) -> None:
        lengths.append(len(tokens))
        if len(lengths) == at:
            signal.raise_signal(signal.SIGINT)
        decode(self, tokens, *args, **more)

    monkeypatch.setattr(Context, "decode", pressing)
    return lengths


@pytest.mark.parametrize("n", [3, 6, 9])
def test_interrupted_while_prompts_are_thinned(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch, n: int
) -> None:
    """No row of the prompt that was broken off is left, wherever it was moved."""
    with converse(tiny(), 300, n_predict=30, prefill="snapkv", system="be good") as talk:
        say(talk, " ".join(f"old{i}" for i in range(30)))
        messages = talk.messages
        with monkeypatch.context() as patch:
            Interrupt(patch, n, KeyboardInterrupt)
            with pytest.raises(KeyboardInterrupt):
                next(talk.ask(" ".join(f"word{i}" for i in range(150))))
        assert talk.messages == messages
        rows = talk.cache.positions()
        assert rows.size == 0 or rows.max() == talk.cache.n_past - 1
        say(talk, "on")
        check_budget(talk)
        assert [pool.turn for pool in talk.pools()] == [0, 0, 0, 1, 1]


def test_stop_strings_are_gone_through_again(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    def hold(back: bool) -> tuple[dict[str, Any], F32]:
        fields: dict[str, Any] = {**SIZES["gives way"], "stop": ["ENOUGH"], "n_predict": None}
        with converse(tiny(), **{**fields, "budget": 200}) as talk:
            answers = [f"{word} and so on, and on, and on ENOUGH" for word in WORDS]
            script(monkeypatch, answers[0], answers[1], answers[2], answers[2])
            for text in WORDS[: 3 + back]:
                say(talk, text)
            if back:
                talk.undo()
                script(monkeypatch, answers[3])
            else:
                script(monkeypatch, answers[3])
            say(talk, WORDS[4])
            return holds(talk), scores(talk)

    went, straight = hold(back=True), hold(back=False)
    assert same(went[0], straight[0]) and np.array_equal(went[1], straight[1])
    assert went[0]["n_past"] > went[0]["used"]


def test_going_through_it_again_may_be_interrupted(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    with converse(tiny(), **SIZES["gives way"]) as talk:
        for text in WORDS[:3]:
            say(talk, text)
        with monkeypatch.context() as patch:
            Interrupt(patch, 30, KeyboardInterrupt)
            with pytest.raises(KeyboardInterrupt):
                talk.undo()
        check_budget(talk)
        assert len(talk.messages) == 4
        assert talk.undo() == WORDS[1]
        went = say(talk, WORDS[3]), holds(talk)
    with converse(tiny(), **SIZES["gives way"]) as talk:
        for i in (0, 3):
            straight = say(talk, WORDS[i]), holds(talk)
    assert went[0] == straight[0] and same(went[1], straight[1])


def test_stopping_keeps_what_was_written(tiny: Tiny) -> None:
    with converse(tiny(), 330, n_predict=100) as talk:
        whole = say(talk, WORDS[0])
        talk.undo()
        answer = talk.ask(WORDS[0])
        part = [next(answer).token for _ in range(40)]
        answer.close()
        answer.close()
        assert part == whole[:40] and list(answer) == []
        assert answer.finish_reason == "interrupted"
        assert talk.messages[-1] == {"role": "assistant", "content": answer.text}
        assert answer.text == talk.model.detokenize([token for token in part if token is not None])
        check_budget(talk)
        say(talk, WORDS[1])
        tokens = [
            t for turn in talk.cached.turns for t in (*turn.tokens, *turn.answer[: turn.n_decoded])
        ]
        prompt = len(talk.cached.turns[0].tokens)
        assert tokens[prompt : prompt + 40] == part


def test_interrupted_while_an_answer_is_written(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    with converse(tiny(), 330, n_predict=100) as talk:
        answer = talk.ask(WORDS[0])
        for _ in range(10):
            next(answer)
        with monkeypatch.context() as patch:
            Interrupt(patch, 1, KeyboardInterrupt)
            with pytest.raises(KeyboardInterrupt):
                next(answer)
        answer.close()
        assert talk.messages[-1]["content"] == answer.text != ""
        assert len(talk.cached.turns[-1].answer) == 10
        check_budget(talk)
        finish(talk, talk.regenerate())
        assert len(talk.cached.turns[-1].answer) == 100


def test_a_new_question_ends_the_running_answer(tiny: Tiny) -> None:
    with converse(tiny(), 330, n_predict=50) as talk:
        answer = talk.ask(WORDS[0])
        next(answer)
        say(talk, WORDS[1])
        assert [m["role"] for m in talk.messages] == ["user", "assistant"] * 2
        talk.ask("never read")
        assert talk.undo() == WORDS[1]
        assert len(talk.messages) == 2


def test_an_interrupted_new_answer_leaves_the_old_one(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    with converse(tiny(), 1000, n_predict=30) as talk:
        say(talk, WORDS[0])
        messages = talk.messages
        for begin in (talk.regenerate, lambda: talk.edit("other")):
            with monkeypatch.context() as patch:
                Interrupt(patch, 1, KeyboardInterrupt)
                with pytest.raises(KeyboardInterrupt):
                    next(begin())
            assert talk.messages == messages
        say(talk, WORDS[1])
        tokens = [
            t for turn in talk.cached.turns for t in (*turn.tokens, *turn.answer[: turn.n_decoded])
        ]
        assert messages[1]["content"] in talk.model.detokenize(tokens)


def test_signals_wait_for_the_end_of_a_step() -> None:
    done = []
    with pytest.raises(KeyboardInterrupt):  # noqa: PT012
        with whole_step():
            with whole_step():
                os.kill(os.getpid(), signal.SIGINT)
                done.append("inner")
            done.append("outer")
        done.append("after")
    assert done == ["inner", "outer"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


# what answers took


def of_answer(talk: Conversation) -> Account:
    """What the statistics say of an answer."""
    stats = vars(talk.stats)
    return Account(**{name: stats[name] for name in Account.__annotations__})


def test_statistics_are_those_of_the_answer_that_stands(tiny: Tiny) -> None:
    with converse(tiny(), **SIZES["evicts"]) as talk:
        assert talk.account is None and of_answer(talk) == Account()
        took = []
        for text in WORDS[:2]:
            say(talk, text)
            took.append(talk.account)
            assert of_answer(talk) == talk.account != Account()
        used = talk.stats.cells_used
        talk.undo()
        assert of_answer(talk) == talk.account == took[0]
        assert talk.stats.cells_used == talk.cache.stats.cells_used < used
        talk.edit("never written").abandon()
        assert talk.account == took[0]
        finish(talk, talk.regenerate())
        again = talk.account
        assert again is not None and again.n_prompt == 0 and again.n_generated == 60
        talk.undo()
        assert talk.account is None and of_answer(talk) == Account()
        say(talk, WORDS[2])
        talk.clear()
        assert talk.account is None and of_answer(talk) == Account()


def test_a_saved_conversation_tells_what_its_answers_took(tiny: Tiny, tmp_path: Path) -> None:
    with converse(tiny(), **SIZES["evicts"]) as talk:
        took = []
        for text in WORDS[:2]:
            say(talk, text)
            took.append(talk.account)
        talk.save(tmp_path / "s")
        talk.clear()
        talk.load(tmp_path / "s")
        assert talk.account == took[1]
        talk.undo()
        assert talk.account == took[0]
