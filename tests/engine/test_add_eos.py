"""No EOS is put behind a prompt that goes on, though the file asks for one behind each text."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from scope_cpp.batch.requests import Defaults, Requests
from scope_cpp.batch.rows import Row
from scope_cpp.engine.conversation import Conversation
from scope_cpp.engine.generate import Generation
from scope_cpp.engine.model import Model
from scope_cpp.engine.sampling import SamplingParams
from scope_cpp.engine.settings import Settings
from scope_cpp.eval.sample import read_item
from scope_cpp.eval.task import Item
from tests.cli.conftest import TEMPLATE
from tests.conftest import Tiny

SETTINGS = Settings(n_threads=1, n_threads_batch=1)
MESSAGES = ({"role": "user", "content": "Hi"},)


@pytest.fixture(scope="module")
def models(tiny: Tiny) -> Iterator[tuple[Model, Model]]:
    """The same weights; the second file wants EOS and a separator behind a text."""
    wants = (("tokenizer.ggml.add_eos_token", True), ("tokenizer.ggml.add_sep_token", True))
    plain, other = tiny(chat_template=TEMPLATE), tiny(chat_template=TEMPLATE, metadata=wants)
    with Model.load(plain) as first, Model.load(other) as second:
        yield first, second


def generated(model: Model) -> Any:
    with Generation(model, "Hi", n_predict=1, settings=SETTINGS) as generation:
        return generation.tokens


def talked(model: Model) -> Any:
    settings = Settings(budget=400, n_threads=1, n_threads_batch=1)
    with Conversation(
        model, settings=settings, sampling=SamplingParams(temp=0), n_predict=5
    ) as conversation:
        for text in ("Hi", "On"):
            list(conversation.ask(text))
        return conversation.cached.tail(1000)


def batched(**row: Any) -> Callable[[Model], Any]:
    return lambda model: Requests(model, Defaults()).of(Row(0, 1, 1, "", **row)).prompt


def evaluated(template: bool) -> Callable[[Model], Any]:
    item = Item("1", "Hi", n_predict=1, gold="", forced=" and on")
    return lambda model: read_item(model, item, template)


@pytest.mark.parametrize(
    "read",
    [
        generated,
        talked,
        batched(prompt="Hi"),
        batched(messages=MESSAGES),
        evaluated(False),
        evaluated(True),
    ],
    ids=["generate", "chat", "batch prompt", "batch messages", "eval raw", "eval template"],
)
def test_nothing_is_put_behind_a_prompt(
    models: tuple[Model, Model], read: Callable[[Model], Any]
) -> None:
    plain, other = models
    assert read(other) == read(plain)
