"""Conversations among the rows of an engine: found again, the same as `Conversation` holds them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from scope_cpp.engine.conversation import Conversation
from scope_cpp.engine.model import Model
from scope_cpp.engine.parallel import ParallelEngine, Request
from scope_cpp.engine.parallel.cells import MOST_RESTING
from scope_cpp.engine.parallel.demand import Room, assess
from scope_cpp.engine.rendering import Rendering
from scope_cpp.engine.sampling import SamplingParams, answer_seed
from scope_cpp.engine.settings import Settings
from scope_cpp.errors import NoRoom
from scope_cpp.native import kv_evict
from tests.conftest import Tiny
from tests.engine.rows import engine, settings
from tests.engine.talk import TEMPLATE, WORDS

BUDGET, LONGEST = 160, 20
# rounding differs beside others, and in f16 it may turn a choice: see docs/serve.md
EXACT: dict[str, Any] = {"type_k": "f32", "type_v": "f32", "budget": BUDGET}
POLICIES: dict[str, dict[str, Any]] = {
    "the default": {},
    "pools": {"policy": "scope-slide", "prefill": "snapkv"},
    "pools, looking ahead": {"policy": "scope-foresight", "prefill": "h2o"},
    "one budget": {"policy": "h2o"},
    "whole cells": {"policy": "h2o", "granularity": "cell"},
    "no attention": {"policy": "streaming-llm"},
}


@pytest.fixture(scope="module")
def model(tiny: Tiny) -> Iterator[Model]:
    with Model.load(tiny()) as model:
        yield model


@dataclass
class Client:
    """Sends a growing list of messages, as clients of the server do.

    Attributes
    ----------
    read
        Tokens that were decoded for each turn before its answer, counted in llama.cpp's batches.
    """

    engine: ParallelEngine
    model: Model
    settings: Settings
    messages: list[dict[str, str]] = field(default_factory=list)
    read: list[int] = field(default_factory=list)
    temp: float = 0
    seed: int = 1
    stop: tuple[str, ...] = ()

    def request(self, branches: bool = False) -> Request:
        chat = Rendering.of(self.model, [dict(message) for message in self.messages], TEMPLATE)
        index = sum(message["role"] == "user" for message in self.messages) - 1
        sampling = SamplingParams(temp=self.temp, seed=answer_seed(self.seed, index, 0))
        prompt = tuple(self.model.tokenize(chat.text, parse_special=True))
        fields = {"chat": chat, "branches": branches, "stop": (*chat.stops, *self.stop)}
        return Request(prompt, LONGEST, self.settings, sampling, **fields)

    def ask(self, text: str) -> str:
        """Send a message, and keep the answer."""
        self.messages.append({"role": "user", "content": text})
        answer = self.answer()
        self.messages.append({"role": "assistant", "content": answer})
        return answer

    def answer(self) -> str:
        """Send the messages as they are."""
        self.engine.submit(self.request(), self)
        decoded: list[int] = []
        context = self.engine.context
        decode = context.decode_rows

        def counted(rows: Any) -> None:
            decoded.append(sum(row.seq == self.seq for row in rows))
            decode(rows)

        text, n_read = "", None
        context.decode_rows = counted  # type: ignore[method-assign]
        try:
            while self.engine.busy:
                for event in self.engine.step():
                    if event.key is not self:
                        continue
                    if event.error is not None:
                        raise event.error
                    assert event.response is not None
                    n_read = sum(decoded) if n_read is None else n_read
                    text += event.response.text
                    self.stats = event.response.stats
        finally:
            context.decode_rows = decode  # type: ignore[method-assign]
        self.read.append(n_read or 0)
        assert self.stats.n_prompt - self.stats.n_shared == n_read
        return text

    @property
    def seq(self) -> int:
        row = self.engine._rows.get(self)
        return row.cache.seq if row is not None and row in self.engine._running else -1

    __hash__ = object.__hash__


def in_cells(engine: ParallelEngine) -> int:
    return kv_evict.n_used(engine.context.ptr)


def talk(model: Model, chosen: Settings, n: int, **fields: Any) -> tuple[list[str], list[int]]:
    """Return the answers of a conversation alone, and the tokens that each turn read."""
    given = {"sampling": SamplingParams(temp=0, seed=1), **fields}
    with Conversation(
        model,
        settings=chosen,
        template=TEMPLATE,
        n_predict=LONGEST,
        warn=lambda line: None,
        **given,
    ) as conversation:
        said, read = [], []
        for i in range(n):
            said.append(conversation.say(message(i)))
            read.append(conversation.stats.n_prompt)
    return said, read


def message(i: int) -> str:
    return f"{WORDS[i % len(WORDS)]} {i}"


@pytest.mark.parametrize("policy", POLICIES)
def test_the_text_is_that_of_a_conversation_alone(model: Model, policy: str) -> None:
    """Greedily, ten times as many tokens as cells; a turn reads what is new, no more."""
    chosen = settings(**EXACT, **POLICIES[policy])
    said, read = talk(model, chosen, 40)
    with engine(model, 1, 400, prefix_cells=200, **EXACT) as made:
        client = Client(made, model, chosen)
        for i in range(40):
            assert client.ask(message(i)) == said[i]
            assert in_cells(made) <= BUDGET
        assert made.n_evicted > 5 * BUDGET
        assert client.stats.cells_capacity == BUDGET and client.stats.cells_peak <= BUDGET
    assert client.read == read


def test_the_same_seed_draws_the_same_text(model: Model) -> None:
    chosen = settings(**EXACT)
    said, _ = talk(model, chosen, 15, sampling=SamplingParams(temp=1.0, seed=5))
    with engine(model, 1, 400, prefix_cells=200, **EXACT) as made:
        client = Client(made, model, chosen, temp=1.0, seed=5)
        assert [client.ask(message(i)) for i in range(15)] == said
    assert len(set(said)) == 15


def test_beside_others(model: Model) -> None:
    """Three clients, whose turns alternate, and an unbounded row: nobody notices."""
    chosen = settings(**EXACT)
    said, read = talk(model, chosen, 12)
    with engine(model, 2, 900, prefix_cells=600, **EXACT) as made:
        clients = [Client(made, model, chosen) for _ in range(2)]
        for client in clients:
            client.messages.append({"role": "system", "content": "ab"[clients.index(client)]})
        alone = Client(made, model, chosen)
        for i in range(12):
            for client in clients:
                client.ask(message(i))
            made.submit(Request("the cat", 30, settings(**EXACT)), i)
            assert alone.ask(message(i)) == said[i]
    assert alone.read == read


def test_two_that_share_a_beginning_part_at_the_branch(model: Model) -> None:
    """Nothing was evicted yet: both are as if the other one had never been."""
    chosen = settings(**EXACT)
    with engine(model, 1, 600, prefix_cells=500, **EXACT) as made:
        first = Client(made, model, chosen)
        first.ask(message(0))
        before = list(first.messages)
        first.ask(message(1))
        other = Client(made, model, chosen, messages=before)
        other.ask(message(7))
        assert made._cells.n_resting_cells() > first.stats.cells_used
        assert is_new(other, message(7))
        for client in (first, other, first, other):
            client.ask(message(3))
            assert is_new(client, message(3))
    for client in (first, other):
        with engine(model, 1, 600, prefix_cells=500, **EXACT) as made:
            again = Client(made, model, chosen)
            asked = [m["content"] for m in client.messages if m["role"] == "user"]
            for text in asked:
                again.ask(text)
            assert again.messages == client.messages


def is_new(client: Client, text: str, n_read: int | None = None) -> bool:
    """Whether a turn read what is new, and the last token of an answer that reached its length."""
    turn = f"</s><user>{text}</s><assistant>"
    n = len(client.model.tokenize(turn, add_special=False, parse_special=True))
    return n <= (client.read[-1] if n_read is None else n_read) <= n + 1


def test_a_branch_takes_the_cells_over_where_there_are_none_for_both(model: Model) -> None:
    chosen = settings(**EXACT)
    with engine(model, 1, BUDGET, prefix_cells=BUDGET, **EXACT) as made:
        first = Client(made, model, chosen)
        first.ask(message(0))
        before = list(first.messages)
        first.ask(message(1))
        other = Client(made, model, chosen, messages=before)
        other.ask(message(7))
        assert is_new(other, message(7))
        assert len(made._cells.talks) == 1


@pytest.mark.parametrize("policy", POLICIES)
def test_an_answer_given_again(model: Model, policy: str) -> None:
    """While nothing gave way it is the same again; later it is an answer within the cells."""
    chosen = settings(**EXACT, **POLICIES[policy])
    with engine(model, 1, 500, prefix_cells=400, **EXACT) as made:
        client = Client(made, model, chosen)
        said = client.ask(message(0)), client.ask(message(1))
        del client.messages[-1]
        assert client.answer() == said[1]
        client.messages.append({"role": "assistant", "content": said[1]})
        for i in range(2, 12):
            client.ask(message(i))
        del client.messages[-1]
        assert client.answer()
        assert client.stats.cells_peak <= BUDGET


@pytest.mark.parametrize("policy", POLICIES)
def test_what_was_forgotten_is_read_again(model: Model, policy: str) -> None:
    """Longer than the cells; its old answers give way, as in the conversation."""
    chosen = settings(**EXACT, **POLICIES[policy])
    with engine(model, 1, 400, prefix_cells=200, **EXACT) as made:
        client = Client(made, model, chosen)
        for i in range(20):
            client.ask(message(i))
    with engine(model, 1, BUDGET, prefix_cells=0, **EXACT) as made:
        restarted = Client(made, model, chosen, messages=client.messages)
        for i in range(2):
            assert restarted.ask(message(i)).strip()
            assert restarted.stats.cells_peak <= BUDGET and in_cells(made) == 0
            assert restarted.read[-1] == restarted.stats.n_prompt > 2 * BUDGET


def test_forgotten_while_all_fits_it_has_the_same_text(model: Model) -> None:
    """Answers are read in batches then, which is what they were but for rounding."""
    chosen = settings(**{**EXACT, "budget": 400})
    said, _ = talk(model, chosen, 5)
    with engine(model, 1, 400, prefix_cells=0, **EXACT) as made:
        client = Client(made, model, chosen)
        assert [client.ask(message(i)) for i in range(5)] == said


def test_an_edited_history(model: Model) -> None:
    """What comes before the edited message is not read again, as long as it is there."""
    chosen = settings(**{**EXACT, "budget": 400})
    with engine(model, 1, 400, prefix_cells=400, **EXACT) as made:
        client = Client(made, model, chosen)
        for i in range(4):
            client.ask(message(i))
        client.messages[4]["content"] = "yes"
        client.ask(message(4))
        turns = "".join(
            f"</s><user>{asked['content']}</s><assistant>{answer['content']}"
            for asked, answer in zip(client.messages[4:8:2], client.messages[5:8:2], strict=True)
        )
        n_new = len(model.tokenize(turns, add_special=False, parse_special=True))
        assert is_new(client, message(4), client.read[-1] - n_new)
        client.messages[0]["content"] = "no"
        client.ask(message(5))
        assert client.read[-1] == client.stats.n_prompt
        assert in_cells(made) <= 400


@pytest.mark.parametrize("n", [1, 5])
def test_cancelled_while_it_is_written(model: Model, n: int) -> None:
    """What was said stays: a client that goes on from it has read its own turn alone."""
    chosen = settings(**EXACT)
    with engine(model, 1, 400, prefix_cells=300, **EXACT) as made:
        client = Client(made, model, chosen)
        client.ask(message(0))
        client.messages.append({"role": "user", "content": message(1)})
        made.submit(client.request(), "cancelled")
        texts = [event.response.text for _ in range(n) for event in made.step()]  # type: ignore
        made.cancel("cancelled")
        assert not made.busy and in_cells(made) > 0
        client.messages.append({"role": "assistant", "content": "".join(texts[: n - 1])})
        client.ask(message(2))
        assert is_new(client, message(2))


def test_cancelled_while_it_is_read(model: Model) -> None:
    chosen = settings(**EXACT, n_ubatch=16)
    with engine(model, 1, 400, prefix_cells=300, **{**EXACT, "n_ubatch": 16}) as made:
        client = Client(made, model, chosen)
        client.ask(message(0))
        n_before = in_cells(made)
        client.messages.append({"role": "user", "content": "the rat and the hat " * 4})
        made.submit(client.request(), "cancelled")
        assert made.step() == [] and in_cells(made) > n_before
        made.cancel("cancelled")
        assert in_cells(made) == n_before
        client.messages.pop()
        client.ask(message(1))
        assert is_new(client, message(1))


def test_a_turn_without_room_is_refused_alone(model: Model) -> None:
    chosen = settings(**EXACT)
    with engine(model, 1, 400, prefix_cells=300, **EXACT) as made:
        client = Client(made, model, chosen)
        client.ask(message(0))
        before = list(client.messages)
        with pytest.raises(NoRoom, match="this turn needs .* of 160 can be had"):
            client.ask("the rat " * 200)
        client.messages = before
        client.ask(message(1))
        assert is_new(client, message(1))
        client.messages.insert(0, {"role": "system", "content": "the rat " * 200})
        with pytest.raises(NoRoom, match="the system prompt takes"):
            client.ask(message(2))


def test_another_budget_and_policy_on_the_way(model: Model) -> None:
    with engine(model, 1, 600, prefix_cells=300, **EXACT) as made:
        client = Client(made, model, settings(**{**EXACT, "budget": 400}))
        for i in range(6):
            client.ask(message(i))
        client.settings = settings(**EXACT, policy="h2o")
        client.ask(message(6))
        assert client.stats.cells_capacity == BUDGET and in_cells(made) <= BUDGET
        assert is_new(client, message(6))


def test_several_answers_go_on_from_the_same(model: Model) -> None:
    """Each is the one that a client alone has, though the first ones evict."""
    chosen = settings(**EXACT)
    with engine(model, 1, 900, prefix_cells=700, **EXACT) as made:
        client = Client(made, model, chosen)
        for i in range(10):
            client.ask(message(i))
        before = client.read
        client.messages.append({"role": "user", "content": message(10)})
        said: dict[int, str] = {i: "" for i in range(3)}
        for key in said:
            made.submit(client.request(branches=True), key)
        n_shared = {}
        while made.busy:
            for event in made.step():
                assert event.response is not None
                said[event.key] += event.response.text  # type: ignore[index]
                n_shared[event.key] = event.response.stats.n_shared
        assert len(set(said.values())) == 1 and len(set(n_shared.values())) == 1
        assert min(n_shared.values()) > sum(before)
        assert in_cells(made) <= 900


def test_what_rests_is_bounded(model: Model) -> None:
    """In cells, asked of llama.cpp, in number and in bytes; the least recently used go first."""
    chosen = settings(**EXACT)
    with engine(model, 1, 2000, prefix_cells=300, **EXACT) as made:
        cells = made._cells
        clients = [Client(made, model, chosen) for _ in range(4)]
        for i in range(5):
            for client, mark in zip(clients, "abcd", strict=True):
                client.ask(f"{mark} {message(i)}")
                assert in_cells(made) == cells.n_resting_cells() <= 300
        per_cell = kv_evict.n_bytes(made.context.ptr) // made.context.n_cells
        assert 0 < made.memory().copies == cells.n_copied_bytes() <= 300 * per_cell
        newest = next(reversed(cells.talks.values()))
        assert newest.turns[0].text.startswith("<user>d ")
        clients[3].ask(message(5))
        assert is_new(clients[3], message(5))
        clients[0].ask(message(5))
        assert clients[0].read[-1] == clients[0].stats.n_prompt
    with engine(model, 1, 4000, prefix_cells=3000, **EXACT) as made:
        for i in range(MOST_RESTING + 3):
            Client(made, model, chosen).ask(message(i))
        assert len(made._cells.talks) == MOST_RESTING


def test_the_last_one_rests_whatever_it_takes(model: Model) -> None:
    """So one conversation may have all cells."""
    with engine(model, 1, BUDGET, prefix_cells=BUDGET // 2, **EXACT) as made:
        client = Client(made, model, settings(**EXACT))
        for i in range(10):
            client.ask(message(i))
            assert in_cells(made) <= BUDGET
        assert is_new(client, message(9))


def test_where_nothing_is_evicted_it_is_a_row_as_any_other(model: Model) -> None:
    with engine(model, 1, 400, prefix_cells=200, **EXACT) as made:
        client = Client(made, model, settings(**{**EXACT, "budget": None}, policy="full"))
        client.ask(message(0))
        assert not made._cells.talks and client.stats.cells_capacity < 100


@pytest.mark.parametrize(
    ("budget", "n_parallel", "n_cells", "capacity"),
    [
        (None, 4, 2000, 2000),
        (None, 4, 16384, 4096),
        (None, 4, 24000, 6000),
        (None, 1, 16384, 8192),
        ("auto", 4, 2000, 500),
        ("50%", 4, 2000, 1000),
        ("1k", 4, 2000, 1024),
        (5000, 4, 2000, 2000),
    ],
)
def test_the_budget_of_a_conversation(
    model: Model, budget: str | int | None, n_parallel: int, n_cells: int, capacity: int
) -> None:
    client = Client(None, model, settings(budget=budget))  # type: ignore[arg-type]
    client.messages.append({"role": "user", "content": message(0)})
    room = Room(n_cells, n_parallel, settings())
    assert assess(client.request(), model, room, talks=True).sizes.capacity == capacity
