"""Conversations: what is read and kept, the budget, and what gives way."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from scope_cpp.engine.conversation import Conversation
from scope_cpp.engine.forecast import Forecast
from scope_cpp.engine.generate import generate
from scope_cpp.engine.model import Model
from scope_cpp.engine.sampling import SamplingParams
from scope_cpp.engine.settings import Settings
from scope_cpp.engine.sizes import CHAT_QUERIES
from scope_cpp.errors import ScopeError, UsageError
from scope_cpp.native import kv_evict
from scope_cpp.policies import decode_names, find_decode
from tests.conftest import Tiny
from tests.engine.drive import GRANULARITIES, open_context
from tests.engine.talk import (
    FORGETFUL,
    GREEDY,
    OPENED,
    STRIPPED,
    TEMPLATE,
    check_budget,
    converse,
    count_decoded,
    finish,
    holds,
    say,
    script,
)
from tests.reference.refused import LOADABLE, write_refused

RANK_ALL = [
    name
    for name in decode_names()
    if find_decode(name).ranks_prompt and not find_decode(name).uneven
]
WORDS = ("the rat and the rest", "on it", "there is a hat in the house on the hill", "no", "yes")
SCOPES = ("scope-slide", "scope-adaptive", "scope-discontinuous")


# what is read


def test_the_same_tokens_as_stock_where_all_fits(tiny: Tiny) -> None:
    with converse(tiny(), 1000, n_predict=40, system="be good") as talk:
        answers = [say(talk, text) for text in WORDS]
        turns = [(turn.tokens, turn.start) for turn in talk.cached.turns]
        assert talk.stats.evicted == 0
    with open_context(tiny(), 1000) as context:
        for (prompt, start), answer in zip(turns, answers, strict=True):
            context.decode(prompt, start)
            written: list[int] = []
            for at in range(start + len(prompt), start + len(prompt) + 40):
                if written:  # the last one is read with the next prompt
                    context.decode([written[-1]], at - 1)
                written.append(int(context.logits().argmax()))
            assert written == answer


def test_what_is_read_is_what_the_template_wrote(tiny: Tiny) -> None:
    with converse(tiny(), 1000, n_predict=20, system="be good") as talk:
        for text in WORDS:
            say(talk, text)
        model = talk.model
        tokens = [
            t for turn in talk.cached.turns for t in (*turn.tokens, *turn.answer[: turn.n_decoded])
        ]
        messages = talk.messages[:-1]
        expected = "".join(f"<{m['role']}>{m['content']}</s>" for m in messages) + "<assistant>"
        assert model.detokenize(tokens, special=True).startswith("<s>" + expected)
        ending = model.tokenize("<assistant>", add_special=False)
        assert all(turn.tokens[-len(ending) :] == ending for turn in talk.cached.turns)
        kinds = [(pool.kind, pool.turn) for pool in talk.pools()]
    pairs = [(kind, turn) for turn in range(5) for kind in ("prompt", "answer")]
    assert kinds == [("system", 0), *pairs]


def test_nothing_is_read_twice(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    with converse(tiny(), 300, n_predict=60) as talk:
        lengths = count_decoded(monkeypatch)
        for text in WORDS:
            before = sum(lengths)
            say(talk, text)
            turn = talk.cached.turns[-1]
            assert talk.stats.n_prompt == len(turn.tokens) < 60
            assert sum(lengths) - before == len(turn.tokens) + 59
        assert sum(lengths) == talk.cache.n_past
        assert talk.cache.n_past > 300 > talk.cache.stats.cells_used


def test_long_prompts_are_read_in_batches(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    with converse(tiny(), 1000, n_predict=5, n_ubatch=32) as talk:
        lengths = count_decoded(monkeypatch)
        say(talk, "x" * 100)
        assert max(lengths) == 32 and lengths.count(32) == talk.stats.n_prompt // 32


def test_the_first_answer_is_that_of_a_generation(tiny: Tiny) -> None:
    sampling = SamplingParams(seed=7, repeat_penalty=1.3)
    with Model.load(tiny()) as model:
        settings = Settings(n_threads=1, n_threads_batch=1)
        prompt = f"<user>{WORDS[0]}</s><assistant>"
        text, _ = generate(
            model, prompt, n_predict=30, settings=settings, sampling=sampling, parse_special=True
        )
    with converse(tiny(), 1000, n_predict=30, sampling=sampling) as talk:
        say(talk, WORDS[0])
        assert talk.messages[-1] == {"role": "assistant", "content": text}


def test_the_answers_own_end(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    """The token that ends an answer is not decoded; the template writes it into the next turn."""
    with converse(tiny(), 1000) as talk:
        script(monkeypatch, "an answer", "another")
        responses = list(talk.ask("go"))
        assert responses[-1].finish_reason == "stop" and responses[-1].token == talk.model.eos_token
        assert talk.pools()[-1].n_tokens == len(talk.model.tokenize("an answer", add_special=False))
        say(talk, "on")
        assert talk.cached.turns[-1].tokens[0] == talk.model.eos_token
        assert [m["content"] for m in talk.messages] == ["go", "an answer", "on", "another"]


def test_an_answer_that_spells_a_control_token_out_is_not_read_again(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    with converse(tiny(), 1000) as talk:
        script(monkeypatch, "it is <unk> and <s>", "another")
        say(talk, "what ends </s> a text?")
        n_past = talk.cache.n_past
        say(talk, "on")
        on = talk.model.tokenize(
            "</s><user>on</s><assistant>", add_special=False, parse_special=True
        )
        assert talk.cached.turns[-1].tokens == on
        assert talk.cached.turns[-1].start == n_past
        answers = [pool.n_tokens for pool in talk.pools() if pool.kind == "answer"]
        assert answers[0] == len(talk.model.tokenize("it is <unk> and <s>", add_special=False))


def test_a_conversation_by_a_template_that_wants_parts(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = TEMPLATE.replace("m.content", "m.content[0].text")
    rows = []
    for template in (TEMPLATE, parts):
        with converse(tiny(), 1000, n_predict=5, template=template, system="Be good.") as talk:
            for text in WORDS[:2]:
                say(talk, text)
            rows.append((talk.cached.tail(1000), talk.pools()))
    assert rows[0] == rows[1]


@pytest.mark.parametrize("answer", ["  an answer \n", "\n", ""])
def test_a_template_that_strips_answers(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch, answer: str
) -> None:
    with converse(tiny(), 1000, template=STRIPPED) as talk:
        script(monkeypatch, answer, "another")
        say(talk, "go")
        lengths = count_decoded(monkeypatch)
        n_past = talk.cache.n_past
        say(talk, "on")
        n_read = len(
            talk.model.tokenize(
                "</s><user>on</s><assistant>", add_special=False, parse_special=True
            )
        )
        assert talk.stats.n_prompt == n_read
        assert talk.cache.n_past == n_past + sum(lengths)


# what is kept


@pytest.mark.parametrize("granularity", GRANULARITIES)
@pytest.mark.parametrize("policy", SCOPES)
def test_prompts_stay_exact_and_the_budget_holds(tiny: Tiny, policy: str, granularity: str) -> None:
    fields = {"policy": policy, "granularity": granularity, "system": "be good"}
    with converse(tiny(), 320, n_predict=110, **fields) as talk:
        for text in WORDS:
            say(talk, text)
            rows = talk.cache.positions()
            for region in (region for turn in talk.cached.turns for region in turn.regions):
                read = np.arange(region.start, region.stop)
                if region.kind != "answer":
                    heads = np.ndindex(rows.shape[:2])
                    assert all(np.isin(read, rows[layer, head]).all() for layer, head in heads)
            newest = talk.pools()[-1]
            assert newest.kind == "answer" and newest.n_tokens == 109
            assert newest.n_cells <= 320 // 4
        assert talk.cache.n_past > 600
        pools = [pool for pool in talk.pools() if pool.kind == "answer"]
        assert sum(pool.n_cells for pool in pools) < sum(pool.n_tokens for pool in pools)


def test_pools_of_answers_are_frozen(tiny: Tiny) -> None:
    """An answer evicts only what it wrote itself."""
    with converse(tiny(), 700, n_predict=200) as talk:
        say(talk, WORDS[0])
        first = talk.cache.positions()
        say(talk, WORDS[1])
        rows = talk.cache.positions()
        assert talk.stats.evicted > 0
        n = first.shape[2]
        assert np.array_equal(np.sort(rows, axis=2)[:, :, :n], np.sort(first, axis=2))


def test_kept_tells_which_positions_are_there(tiny: Tiny) -> None:
    with converse(tiny(), 300, n_predict=100) as talk:
        for text in WORDS[:3]:
            say(talk, text)
        rows = talk.cache.positions()
        for layer, head in np.ndindex(rows.shape[:2]):
            marks = talk.kept(layer, head)
            assert marks.shape == (talk.cache.n_past,)
            assert np.flatnonzero(marks).tolist() == sorted(rows[layer, head])
        for layer, head in [(2, 0), (0, 2), (-1, 0)]:
            with pytest.raises(UsageError, match="layers with a cache are 0, 1, KV heads 0 to 1"):
                talk.kept(layer, head)


@pytest.mark.parametrize("granularity", GRANULARITIES)
@pytest.mark.parametrize(
    "policy, options",
    [
        ("scope-slide", ()),
        ("scope-slide", ("score=window", "window=4")),
        ("scope-adaptive", ()),
        ("scope-discontinuous", ()),
        ("h2o", ()),
        ("h2o", ("score=last", "interval=3")),
        ("streaming-llm", ()),
        (None, ()),
    ],
)
def test_every_policy_holds_a_conversation(
    tiny: Tiny, policy: str | None, options: tuple[str, ...], granularity: str
) -> None:
    fields = {"policy": policy, "options": options, "granularity": granularity}
    with converse(tiny(), 230, n_predict=90, **fields) as talk:
        for text in WORDS:
            assert len(say(talk, text)) == 90
        assert talk.cache.n_past > 2 * 230
        assert len(talk.messages) == 10
        assert np.isfinite(talk.context.logits()).all()


def is_whole(talk: Conversation, start: int, stop: int) -> bool:
    """Whether all heads hold all rows of these positions."""
    rows = talk.cache.positions()
    held = ((rows >= start) & (rows < stop)).sum(axis=2)
    return bool((held == stop - start).all())


@pytest.mark.parametrize("granularity", GRANULARITIES)
@pytest.mark.parametrize("policy", RANK_ALL)
def test_no_policy_gives_up_the_system_prompt(tiny: Tiny, policy: str, granularity: str) -> None:
    fields = {"policy": policy, "granularity": granularity, "system": "be good " * 5}
    with converse(tiny(), 230, n_predict=90, **fields) as talk:
        for text in WORDS:
            say(talk, text)
            n = next(pool.n_tokens for pool in talk.pools() if pool.kind == "system")
            assert n >= 40 and is_whole(talk, 0, n)
        assert talk.cache.n_past > 2 * 230
        size = talk.cache.capacity // 2
        talk.set_budget(size)
        assert talk.cache.stats.cells_used <= size and is_whole(talk, 0, n)
        with pytest.raises(ScopeError, match=rf"{size - n} of {size} can be had"):
            say(talk, "long " * 40)


@pytest.mark.parametrize("policy", [None, "h2o"])
def test_what_is_held_makes_no_selection_more_frequent(tiny: Tiny, policy: str | None) -> None:
    """An interval makes room for as many tokens, whatever cannot go."""
    fields = {"policy": policy, "options": ("interval=8",), "system": "be good " * 9}
    with converse(tiny(), 230, n_predict=150, **fields) as talk:
        say(talk, WORDS[0])
        say(talk, WORDS[1])
        assert talk.stats.evicted > 100
        assert talk.cache.stats.selections <= talk.stats.evicted / 8 + 2


@pytest.mark.parametrize("granularity", GRANULARITIES)
def test_the_latest_messages_stay_while_they_take_half(tiny: Tiny, granularity: str) -> None:
    """By default; an older message has to be of use, as answers have."""
    with converse(tiny(), 256, policy=None, granularity=granularity, n_predict=90) as talk:
        for text in ("cat " * 9, *WORDS, "dog " * 9):
            say(talk, text)
            regions = [r for turn in talk.cached.turns for r in turn.regions]
            left = 128 - sum(r.stop for r in regions if r.kind == "system")
            spans = [(r.start, r.stop) for r in regions if r.kind == "prompt"]
            for start, stop in spans[::-1]:
                if stop - start <= left:
                    left -= stop - start
                    assert is_whole(talk, start, stop)
        assert len(spans) == len(WORDS) + 2 and left < stop - start
        assert not is_whole(talk, *spans[0]), "the first one gave way"
        assert talk.stats.evicted > 0


def test_a_message_of_most_cells_is_read(tiny: Tiny) -> None:
    """Then the ones before it are not kept whatever they are worth."""
    with converse(tiny(), 256, policy=None, n_predict=20) as talk:
        for text in WORDS[:3]:
            say(talk, text)
        say(talk, "long " * 53)
        assert len(talk.cached.turns[-1].tokens) > 220
        say(talk, WORDS[3])
        with pytest.raises(ScopeError, match="of 256 can be had"):
            say(talk, "long " * 90)
        say(talk, WORDS[4])


def test_the_full_cache(tiny: Tiny) -> None:
    lines: list[str] = []
    with converse(tiny(), 130, policy="full", warn=lines.append) as talk:
        say(talk, "one")
        assert talk.cache.stats.cells_used == 130 and talk.messages[-1]["content"]
        assert any("the answer ends here: all 130 cells" in line for line in lines)
        before = holds(talk)
        with pytest.raises(ScopeError, match="give a larger --budget"):
            say(talk, "two")
        assert holds(talk)["messages"] == before["messages"]
        assert talk.cache.stats.cells_used == 130
        assert talk.kept(0, 0).all() and talk.stats.evicted == 0


@pytest.mark.parametrize("kind", LOADABLE)
def test_a_model_that_cannot_be_bounded(tmp_path: Path, kind: str) -> None:
    path = write_refused(kind, tmp_path / "model.gguf")
    with pytest.raises(ScopeError, match="--policy full|can.t generate"), converse(path, 300):
        pass


# what gives way


def test_the_oldest_answers_give_way_first(tiny: Tiny) -> None:
    with converse(tiny(), 320, n_predict=60, system="be good") as talk:
        gone = 0
        for text in WORDS:
            say(talk, text)
            answers = [pool for pool in talk.pools() if pool.kind == "answer"]
            others = [pool for pool in talk.pools() if pool.kind != "answer"]
            assert all(pool.n_cells == pool.n_tokens for pool in others)
            touched = [pool.n_cells < pool.n_tokens for pool in answers]
            assert touched == sorted(touched, reverse=True)
            assert all(pool.n_cells == 0 for pool in answers[: max(0, sum(touched) - 1)])
            assert sum(touched) >= gone
            gone = sum(touched)
        assert gone >= 2


def test_nothing_may_give_way(tiny: Tiny) -> None:
    """The error says what is needed, what there is, and what helps; the turn is taken back."""
    with converse(tiny(), 200, n_predict=30) as talk:
        say(talk, "short")
        before = holds(talk)
        with pytest.raises(ScopeError, match=r"needs \d+ cells.* of 200 .*/clear.*--prefill"):
            say(talk, "long " * 40)
        assert holds(talk)["messages"] == before["messages"]
        assert np.array_equal(holds(talk)["positions"], before["positions"])
        say(talk, "short again")


@pytest.mark.parametrize("prefill", ["snapkv", "h2o"])
@pytest.mark.parametrize("policy", ["scope-slide", "streaming-llm", "full"])
def test_prompts_give_way_to_a_prefill_policy(tiny: Tiny, policy: str, prefill: str) -> None:
    fields = {"policy": policy, "prefill": prefill, "system": "be good and kind"}
    with converse(tiny(), 300, n_predict=30, **fields) as talk:
        for i in range(6):
            say(talk, f"question {i}, which is long as questions are; is it not, or is it?")
        pools = talk.pools()
        prompts = [pool for pool in pools if pool.kind == "prompt"]
        assert any(pool.n_cells < pool.n_tokens for pool in prompts)
        if policy != "streaming-llm":
            assert pools[0].kind == "system" and pools[0].n_cells == pools[0].n_tokens


def test_a_prompt_larger_than_the_budget(tiny: Tiny) -> None:
    """A prefill policy thins it while it is read; without one it is refused."""
    text = " ".join(f"word{i}" for i in range(150))
    with converse(tiny(), 300, n_predict=30, prefill="snapkv", system="be good") as talk:
        say(talk, "hello")
        say(talk, text)
        assert talk.stats.n_prompt > 600
        pools = talk.pools()
        assert pools[0].n_cells == pools[0].n_tokens
        assert next(p for p in pools if (p.kind, p.turn) == ("answer", 0)).n_cells == 0
        say(talk, "more")
    with converse(tiny(), 300, n_predict=30) as talk, pytest.raises(ScopeError, match="needs"):
        say(talk, text)


def test_a_system_prompt_larger_than_the_budget(tiny: Tiny) -> None:
    with (
        pytest.raises(ScopeError, match=r"the system prompt takes \d+ cells.*budget is 200"),
        converse(tiny(), 200, system="be good " * 40),
    ):
        pass
    with converse(tiny(), 200, n_predict=20) as talk:
        say(talk, "hello")
        before = holds(talk)
        with pytest.raises(ScopeError, match="the system prompt takes"):
            talk.set_system("be good " * 40)
        assert holds(talk)["messages"] == before["messages"]


# thinking


THOUGHT = "<think>\nlet me think about this for a while, at some length\n</think>\n\nyes it is"


@pytest.mark.parametrize("template", [FORGETFUL, OPENED], ids=["forgetful", "opened"])
def test_thoughts_of_earlier_turns_are_freed(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch, template: str
) -> None:
    thought = THOUGHT.removeprefix("<think>\n") if template is OPENED else THOUGHT
    with converse(tiny(), 1000, template=template) as talk:
        script(monkeypatch, thought, "good", "bye")
        say(talk, "is it?")
        n_thought = talk.pools()[-1].n_cells
        assert n_thought > 50
        used = talk.cache.stats.cells_used
        lengths = count_decoded(monkeypatch)
        say(talk, "sure")
        assert talk.cache.stats.cells_used < used
        assert talk.messages[1]["content"] == thought
        answer = next(p for p in talk.pools() if (p.kind, p.turn) == ("answer", 0))
        assert answer.n_tokens == len(talk.model.tokenize("yes it is", add_special=False))
        assert sum(lengths) < 60  # the first question is not among them
        check_budget(talk)
        say(talk, "well")
        # a conversation that is read at once
        text = (
            "<user>is it?</s><assistant>yes it is</s><user>sure</s><assistant>good</s>"
            "<user>well</s><assistant>"
        ) + ("<think>\n" if template is OPENED else "")
        turn = talk.cached.turns[-1]
        tokens = [
            t for one in talk.cached.turns for t in (*one.tokens, *one.answer[: one.n_decoded])
        ]
        n = turn.stop
        assert tokens[:n] == talk.model.tokenize(text, add_special=True, parse_special=True)
        talk.cached.go_back(len(talk.cached.turns) - 1, keep_prompt=True)
        talk.cached.read_again()
        logits = talk.context.logits()
    with open_context(tiny(), 1000) as context:
        context.decode(tokens[:n], 0)
        expected = context.logits()
    assert np.abs(logits - expected).max() < 3e-3 * np.abs(expected).max()


def test_a_visible_answer_that_was_read_may_give_way(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    with converse(tiny(), 400, template=FORGETFUL) as talk:
        visible = "an answer that is long enough"
        n_visible = len(talk.model.tokenize(visible, add_special=False))
        script(monkeypatch, *[f"<think>{i}</think>{visible}" for i in range(6)])
        for _ in range(6):
            say(talk, "and what is the next one then?")
        answers = [pool for pool in talk.pools() if pool.kind == "answer"]
        assert answers[0].n_cells < answers[0].n_tokens == n_visible


# stop strings


def test_a_stop_string_is_taken_back(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    with converse(tiny(), 1000, stop=["STOP"]) as talk:
        script(monkeypatch, "an answerSTOPmore", "another")
        responses = list(talk.ask("go"))
        assert responses[-1].finish_reason == "stop"
        assert talk.messages[-1]["content"] == "an answer"
        model = talk.model
        assert talk.pools()[-1].n_tokens == len(model.tokenize("an answer", add_special=False))
        check_budget(talk)
        lengths = count_decoded(monkeypatch)
        say(talk, "on")
        tokens = [
            t for turn in talk.cached.turns for t in (*turn.tokens, *turn.answer[: turn.n_decoded])
        ]
        text = "<user>go</s><assistant>an answer</s><user>on</s><assistant>another"
        assert model.detokenize(tokens, special=True) == "<s>" + text
        assert lengths[0] == len(
            model.tokenize("</s><user>on</s><assistant>", add_special=False, parse_special=True)
        )


def test_a_model_without_a_template(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[str] = []
    fields: dict[str, Any] = {"template": None, "warn": lines.append, "system": "be good"}
    with converse(tiny(), 1000, **fields) as talk:
        assert len([line for line in lines if "no chat template" in line]) == 1
        script(monkeypatch, " an answer\nUser: and", " yes")
        responses = list(talk.ask("go"))
        assert responses[-1].finish_reason == "stop"
        assert talk.messages[-1]["content"] == " an answer"
        say(talk, "on")
        tokens = [
            t for turn in talk.cached.turns for t in (*turn.tokens, *turn.answer[: turn.n_decoded])
        ]
        text = talk.model.detokenize(tokens, special=True)
        assert text == "<s>be good\n\nUser: go\nAssistant: an answer\nUser: on\nAssistant: yes"


# statistics


def test_statistics_of_a_turn(tiny: Tiny) -> None:
    with converse(tiny(), 320, n_predict=110) as talk:
        assert talk.stats.n_generated == 0 and talk.stats.cells_allocated == 512
        for text in WORDS:
            used, n_past = talk.cache.stats.cells_used, talk.cache.n_past
            answer = talk.ask(text)
            first = next(answer)
            assert first.stats.n_generated == 1 and first.stats.n_prompt == len(
                talk.cached.turns[-1].tokens
            )
            finish(talk, answer)
            stats = talk.stats
            assert stats.n_generated == 110 and stats.prompt_seconds > 0 < stats.generation_seconds
            assert stats.evicted == used + talk.cache.n_past - n_past - stats.cells_used
            assert stats.selections > 0 and 0 < stats.attention_loss < 1
            assert stats.kv_bytes == kv_evict.n_bytes(talk.context.ptr)
        sizes = [(pool.bytes, pool.n_cells) for pool in talk.pools()]
        per_cell = stats.kv_bytes // stats.cells_allocated
        assert all(n_bytes == n_cells * per_cell for n_bytes, n_cells in sizes)


def test_positions_beyond_the_training_are_warned_about_once(tiny: Tiny) -> None:
    lines: list[str] = []
    with converse(tiny(), 400, n_predict=150, warn=lines.append) as talk:
        for text in WORDS:
            say(talk, text)
        assert talk.cache.n_past > 512
    assert len([line for line in lines if "trained" in line]) == 1


# what is refused


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"budget": "50%"}, "-c"),
        ({"budget": "lots"}, "not understood"),
        ({"budget": 100, "options": ("beta1=90", "beta2=90")}, "pool takes"),
        ({"budget": 500, "prefill": "snapkv", "options": ("alpha1=9",)}, "leave the size out"),
        ({"budget": 500, "n_predict": 0}, "at least 1"),
        ({"budget": 500, "stop": [""]}, "stop string"),
        ({"budget": 500, "template": "{{ 1 / 0 }}"}, "template"),
    ],
)
def test_bad_settings(tiny: Tiny, fields: dict[str, Any], message: str) -> None:
    budget = fields.pop("budget")
    with pytest.raises(UsageError, match=message), converse(tiny(), budget, **fields):
        pass


def test_the_default_budget(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    def capacity(**fields: Any) -> int:
        with Model.load(tiny()) as model:
            talk = Conversation(model, settings=Settings(**fields), template=TEMPLATE)
            with talk:
                return talk.cache.capacity

    assert capacity() == 8192
    assert capacity(ctx_size=3000) == 3000
    assert capacity(ctx_size=3000, budget="50%") == 1500
    with Model.load(tiny()) as model, Forecast(model) as forecast:
        half = forecast.taken(Settings(), n_recorded=CHAT_QUERIES)(768)
    monkeypatch.setattr("scope_cpp.engine.sizes.free_memory", lambda **_: 2 * half)
    assert capacity() == 768


def test_the_longest_conversation(tiny: Tiny) -> None:
    with converse(tiny(), 400, ctx_size=150) as talk:
        responses = list(talk.ask("go"))
        assert responses[-1].finish_reason == "length"
        assert talk.cache.n_past == 149
        with pytest.raises(ScopeError, match="-c 150 is its longest length"):
            say(talk, "on")
        assert len(talk.messages) == 2


def test_an_empty_conversation_has_nothing_to_take_back(tiny: Tiny) -> None:
    with converse(tiny(), 400, system="be good") as talk:
        for change in (talk.undo, talk.regenerate, lambda: talk.edit("x")):
            with pytest.raises(UsageError, match="there is no"):
                change()
        assert talk.messages == [{"role": "system", "content": "be good"}]
        assert GREEDY.temp == talk.sampling.temp
