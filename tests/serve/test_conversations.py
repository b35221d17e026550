"""Conversations over HTTP: a growing list of messages has what a chat has."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from scope_cpp.engine.conversation import Conversation
from scope_cpp.engine.model import Model
from scope_cpp.engine.sampling import SamplingParams
from scope_cpp.engine.settings import Settings
from tests.conftest import Tiny
from tests.serve.service import Running, running

openai = pytest.importorskip("openai")

BUDGET, LONGEST = 256, 24
# plain attention in 32 bits: what one row alone has, beside others too
EXACT = {"type_k": "f32", "type_v": "f32", "flash_attn": "off"}
DIALS: dict[str, Any] = {"n_threads": 1, "n_threads_batch": 1, **EXACT}


@dataclass
class Talk:
    """A client that sends all messages each time.

    Attributes
    ----------
    read, used
        Of each turn: tokens that were read, and cells that are used after it.
    """

    server: Running
    fields: dict[str, Any] = field(default_factory=dict)
    messages: list[dict[str, str]] = field(default_factory=list)
    read: list[int] = field(default_factory=list)
    used: list[int] = field(default_factory=list)

    def ask(self, text: str, stream: bool = False) -> str:
        self.messages.append({"role": "user", "content": text})
        answer = self.send(stream)
        self.messages.append({"role": "assistant", "content": answer})
        return answer

    def send(self, stream: bool = False) -> str:
        fields: dict[str, Any] = {"max_tokens": LONGEST, "extra_body": {"scope": {}}} | self.fields
        asked = {"model": self.server.service.facts["model"], "messages": self.messages} | fields
        create = self.server.client().chat.completions.create
        if stream:
            chunks = list(create(**asked, stream=True, stream_options={"include_usage": True}))
            usage, scope = chunks[-1].usage, chunks[-2].scope
            answer = "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1])
        else:
            whole = create(**asked)
            usage, scope = whole.usage, whole.scope[0]
            answer = whole.choices[0].message.content
        self.read.append(usage.prompt_tokens - usage.prompt_tokens_details.cached_tokens)
        self.used.append(scope["used"])
        assert scope["used"] <= scope["capacity"]
        return str(answer)


def message(i: int) -> str:
    return f"what is number {i} on the list"


def alone(path: Path, chosen: Settings, n: int) -> tuple[list[str], list[int]]:
    """Answers of a chat, and what each of its turns read."""
    said, read = [], []
    with (
        Model.load(path) as model,
        Conversation(
            model,
            settings=chosen,
            sampling=SamplingParams(temp=0),
            n_predict=LONGEST,
            warn=lambda line: None,
        ) as talk,
    ):
        for i in range(n):
            said.append(talk.say(message(i)))
            read.append(talk.stats.n_prompt)
    return said, read


@contextmanager
def serving(path: Path, budget: int, **limits: Any) -> Iterator[Running]:
    given = {"n_parallel": 1, "cells": str(2 * budget), "prefix_cache": None, **limits}
    with running(path, Settings(budget=budget, **DIALS), **given) as server:
        yield server


@pytest.mark.parametrize("stream", [False, True])
def test_the_text_is_that_of_a_chat(tiny: Tiny, stream: bool) -> None:
    said, read = alone(tiny(), Settings(budget=BUDGET, **DIALS), 20)
    with serving(tiny(), BUDGET) as server:
        talk = Talk(server)
        assert [talk.ask(message(i), stream) for i in range(20)] == said
        assert server.metrics()["scope_cells_evicted_total"] > BUDGET
    # what an answer ends with is read with the turn after it
    assert talk.read == read


def test_a_hundred_turns_in_4096_cells(tiny: Tiny) -> None:
    """Each reads its own turn alone; the cells of llama.cpp are never more than the budget."""
    said, read = alone(tiny(), Settings(budget=4096, **DIALS), 100)
    with serving(tiny(), 4096, cells="4096") as server:
        talk = Talk(server)
        for i in range(100):
            assert talk.ask(message(i)) == said[i]
            assert talk.used[-1] <= server.metrics()["scope_cells_used"] <= 4096
        assert server.metrics()["scope_cells_evicted_total"] > 0
    assert talk.read == read and max(read) < 60
    assert talk.used[9] < 800 and talk.used[99] > 4000


def test_two_clients_part_at_the_branch(tiny: Tiny) -> None:
    with serving(tiny(), 400, cells="1000") as server:
        first = Talk(server)
        first.ask(message(0))
        other = Talk(server, messages=list(first.messages))
        first.ask(message(1))
        other.ask("no")
        for talk in (first, other, first, other):
            talk.ask("yes")
        # a turn, and not the one before it
        assert first.read[2:] == other.read[1:] == [other.read[0]] * 2 and other.read[0] < 20
    with serving(tiny(), 400) as server:
        again = Talk(server)
        assert [again.ask(text) for text in (message(0), "no", "yes", "yes")] == [
            m["content"] for m in other.messages if m["role"] == "assistant"
        ]


def test_a_server_that_was_restarted(tiny: Tiny) -> None:
    """Old answers are read again, and give way first; the history is longer than the cells."""
    with serving(tiny(), BUDGET) as server:
        talk = Talk(server)
        for i in range(20):
            talk.ask(message(i))
    with serving(tiny(), BUDGET) as server:
        talk = Talk(server, messages=talk.messages)
        assert talk.ask(message(20))
        assert talk.read[0] > 3 * BUDGET and server.metrics()["scope_cells_used"] <= BUDGET
        talk.ask(message(21))
        assert talk.read[1] < 60


def test_several_answers(tiny: Tiny) -> None:
    """They go on from the same, and one of them is gone on with."""
    with serving(tiny(), BUDGET, cells="1000") as server:
        talk = Talk(server)
        for i in range(12):
            talk.ask(message(i))
        talk.messages.append({"role": "user", "content": message(12)})
        chat = server.client().chat.completions.create
        asked = {"model": server.service.facts["model"], "messages": talk.messages}
        answer = chat(**asked, n=3, max_tokens=LONGEST)
        texts = {choice.message.content for choice in answer.choices}
        assert len(texts) == 1 and answer.usage.completion_tokens == 3 * LONGEST
        talk.messages.append({"role": "assistant", "content": texts.pop()})
        talk.ask(message(13))
        assert talk.read[-1] < 60


def test_turns_with_a_schema(tiny: Tiny) -> None:
    schema = {"type": "array", "items": {"enum": [1, 22]}, "minItems": 2, "maxItems": 4}
    form = {"type": "json_schema", "json_schema": {"name": "numbers", "schema": schema}}
    with serving(tiny(), BUDGET) as server:
        talk = Talk(server, fields={"response_format": form})
        for i in range(15):
            assert set(json.loads(talk.ask(message(i)))) <= {1, 22}
        assert talk.read[0] == max(talk.read[:1]) and max(talk.read[1:]) < 60


def test_a_client_that_stops(tiny: Tiny) -> None:
    """The text that it has is what it goes on from."""
    with serving(tiny(), 400) as server:
        talk = Talk(server)
        talk.ask(message(0))
        talk.messages.append({"role": "user", "content": message(1)})
        create = server.client().chat.completions.create
        asked = {"model": server.service.facts["model"], "messages": talk.messages}
        stream = create(**asked, stream=True, max_tokens=300)
        texts = [next(stream).choices[0].delta.content for _ in range(5)]
        stream.close()
        talk.messages.append({"role": "assistant", "content": "".join(texts)})
        talk.ask(message(2))
        assert talk.read[-1] < 60


def test_a_long_conversation_is_refused_by_fields_of_the_interface(tiny: Tiny) -> None:
    """With pools for answers, where messages stay until a prefill policy thins them."""
    with serving(tiny(), BUDGET) as server:
        talk = Talk(server, fields={"extra_body": {"scope": {}, "policy": "scope-slide"}})
        with pytest.raises(openai.BadRequestError) as refused:
            for i in range(20):
                talk.ask(message(i))
        assert refused.value.code == "context_length_exceeded"
        assert refused.value.param == "messages" and "--" not in refused.value.message
        assert "(/" not in refused.value.message and "(prefill snapkv)" in refused.value.message
        talk.fields["extra_body"]["prefill"] = "snapkv"
        talk.messages.pop()
        for i in range(20, 24):
            talk.ask(message(i))
        assert max(talk.read[-4:]) < 60
