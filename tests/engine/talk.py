"""Conversations with tiny models: templates, scripted answers, and what is compared."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from scope_cpp.engine import conversation as module
from scope_cpp.engine.context import Context
from scope_cpp.engine.conversation import Conversation
from scope_cpp.engine.model import Model
from scope_cpp.engine.sampling import SamplingParams
from scope_cpp.engine.settings import Settings
from scope_cpp.native import kv_evict

GREEDY = SamplingParams(temp=0, seed=1)
SOME = 7  # tokens after which the pools are counted, which takes as long as writing one
WORDS = ("the rat and the rest", "on it", "there is a hat in the house", "no", "yes")

TEMPLATE = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
# as those of Qwen3: what an earlier answer thought is left out
FORGETFUL = (
    "{% for m in messages %}<{{ m.role }}>"
    "{% if m.role == 'assistant' %}{{ m.content.split('</think>')[-1].lstrip('\\n') }}"
    "{% else %}{{ m.content }}{% endif %}</s>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
# as those of DeepSeek-R1: the beginning of the thought is written by the template
OPENED = FORGETFUL.replace("%}<assistant>{%", "%}<assistant><think>\n{%")
# as that of Llama 2: answers are stripped
STRIPPED = TEMPLATE.replace("{{ m.content }}", "{{ m.content | trim }}")


@contextmanager
def converse(path: Path, budget: int, **fields: Any) -> Iterator[Conversation]:
    """Open a conversation on one thread; names of `Settings` go there.

    Without a policy its answers have pools of their own; ``policy=None`` is the default one.
    """
    chosen = {name: fields.pop(name) for name in list(fields) if hasattr(Settings, name)}
    if "policy" not in chosen:
        chosen["policy"] = "scope-foresight"
        chosen["options"] = ("interval=auto", *chosen.get("options", ()))
    settings = Settings(budget=budget, n_threads=1, n_threads_batch=1, **chosen)
    given = {"sampling": GREEDY, "template": TEMPLATE, "warn": lambda line: None, **fields}
    with (
        Model.load(path) as model,
        Conversation(model, settings=settings, **given) as conversation,
    ):
        yield conversation


def say(conversation: Conversation, text: str) -> list[int]:
    """Ask, and return the tokens of the whole answer; the budget is watched at every step."""
    return finish(conversation, conversation.ask(text))


def finish(conversation: Conversation, answer: Any) -> list[int]:
    tokens = []
    for response in answer:
        check_cells(conversation)
        if len(tokens) % SOME == 0:
            check_budget(conversation)
        tokens.append(response.token)
    check_budget(conversation)
    return tokens


def check_budget(conversation: Conversation) -> None:
    """Compare the pools and our count with llama.cpp's and with the budget."""
    used = check_cells(conversation)
    assert used == sum(pool.n_cells for pool in conversation.pools())


def check_cells(conversation: Conversation) -> int:
    """Compare our count with llama.cpp's and with the budget; return it."""
    cache = conversation.cache
    used = kv_evict.n_used(conversation.context.ptr)
    assert used == cache.stats.cells_used <= cache.stats.cells_peak <= cache.capacity
    return used


def holds(conversation: Conversation) -> dict[str, Any]:
    """What must be equal where two conversations are the same."""
    cache = conversation.cache
    return {
        "messages": conversation.messages,
        "n_past": cache.n_past,
        "positions": np.sort(cache.positions(), axis=2),
        "pools": conversation.pools(),
        "used": cache.stats.cells_used,
    }


def same(a: dict[str, Any], b: dict[str, Any]) -> bool:
    return all(np.array_equal(a[key], b[key]) for key in a)


def count_decoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Lengths of all batches from now on."""
    lengths: list[int] = []
    decode = Context.decode

    def counting(self: Context, tokens: Sequence[int], *args: Any, **more: Any) -> None:
        lengths.append(len(tokens))
        decode(self, tokens, *args, **more)

    monkeypatch.setattr(Context, "decode", counting)
    return lengths


class Scripted:
    """In the place of `Sampler`: writes given texts, one an answer, and ends each."""

    texts: list[str]

    def __init__(self, model: Model, params: SamplingParams) -> None:
        assert model.eos_token is not None
        self.tokens = [*model.tokenize(self.texts.pop(0), add_special=False), model.eos_token]

    def accept_prompt(self, tokens: Sequence[int]) -> None:
        pass

    def sample(self, ctx: Any) -> int:
        return self.tokens.pop(0)

    def close(self) -> None:
        pass


def script(monkeypatch: pytest.MonkeyPatch, *texts: str) -> None:
    """Let the next answers be these."""
    monkeypatch.setattr(Scripted, "texts", list(texts), raising=False)
    monkeypatch.setattr(module, "Sampler", Scripted)


Change = Callable[[Conversation], Any]


def check_goes_on_after_saving(path: Path, budget: int, session: Path, policy: str | None) -> None:
    """A session that is loaded says what the conversation says that was not saved, bit by bit."""
    with converse(path, budget, n_predict=50, policy=policy) as talk:
        for text in WORDS[:3]:
            say(talk, text)
        talk.save(session)
        expected = [say(talk, text) for text in WORDS[3:]]
        logits = talk.context.logits()
    compute = Settings(n_threads=1, n_threads_batch=1)
    with Model.load(path) as model, Conversation.resume(model, session, compute=compute) as again:
        assert [say(again, text) for text in WORDS[3:]] == expected
        assert np.array_equal(again.context.logits(), logits)
