"""Conversations over HTTP with models whose prompts can't rest in cells."""

from __future__ import annotations

from typing import Any

import pytest

from scope_cpp.engine.forecast import Forecast
from scope_cpp.engine.model import Model
from scope_cpp.engine.parallel.cells import MOST_RESTING
from scope_cpp.engine.parallel.cells import taken as taken_by_rows
from scope_cpp.engine.parallel.copies import Copies
from scope_cpp.engine.settings import Settings
from scope_cpp.errors import UsageError
from scope_cpp.serve.options import Options, cache_sizes
from tests.conftest import Tiny
from tests.engine.talk import TEMPLATE
from tests.serve.service import running

pytest.importorskip("openai")

TEXTS = ("the rat and the rest " * 4, "on it", "there is a hat in the house", "no")


def converse(path: Any, **limits: Any) -> tuple[list[str], list[int], list[int], dict[str, float]]:
    """What is said in four turns, tokens of their prompts, those not read, and the metrics."""
    exact = Settings(n_threads=1, n_threads_batch=1, type_k="f32", type_v="f32")
    said, n_prompt, n_cached = [], [], []
    with running(path, exact, name="tiny", cells="1k", **limits) as server:
        with server.client() as client:
            messages = []
            for text in TEXTS:
                messages.append({"role": "user", "content": text})
                answer = client.chat.completions.create(
                    model="tiny", messages=messages, max_tokens=30, n=2 if text == "no" else 1
                )
                said += [choice.message.content for choice in answer.choices]
                messages.append({"role": "assistant", "content": said[-1]})
                n_prompt.append(answer.usage.prompt_tokens)
                n_cached.append(answer.usage.prompt_tokens_details.cached_tokens)
        return said, n_prompt, n_cached, server.metrics()


@pytest.mark.parametrize("arch", ["gemma3", "lfm2"])
def test_later_turns_read_what_is_new(tiny_arch: Tiny, arch: str) -> None:
    path = tiny_arch(arch=arch, tokenizer__chat_template=TEMPLATE)
    expected, n_prompt, n_cached, metrics = converse(path, prefix_cache="0")
    assert n_cached == [0, 0, 0, 0] and metrics["scope_prefix_bytes"] == 0
    said, n_again, n_cached, metrics = converse(path, prefix_cache="20k")
    assert said == expected and n_again == n_prompt
    # at least the prompt before, but for its last token, which is read for its logits
    assert n_cached[0] == 0
    for cached, n_before in zip(n_cached[1:], n_prompt, strict=False):
        assert cached >= n_before - 1
    assert 0 < metrics["scope_prefix_bytes"] < metrics["scope_memory_bytes"]
    assert converse(path, prefix_cache=None)[2] == n_cached  # there is room by default


def test_what_prompts_may_keep(tiny_arch: Tiny) -> None:
    settings = Settings(n_threads=1, n_threads_batch=1)
    with Model.load(tiny_arch(arch="gemma3")) as model, Forecast(model) as forecast:
        copies = Copies.of(forecast, settings, 4)
        assert copies is not None and copies.beside > 0

        def sizes(**limits: Any) -> tuple[int, int]:
            return cache_sizes(Options(**limits), model, settings)

        assert sizes(cells="1k") == (1024, copies.cells(512, MOST_RESTING))
        assert sizes(cells="1k", prefix_cache="0") == (1024, 0)
        # more than there are cells, as they lie beside them
        assert sizes(cells="1k", prefix_cache="4k") == (1024, 4096)
        # memory that holds the cells holds the copies too
        n_cells, rest = sizes(cells="24MiB")
        assert 0 < rest * copies.per_cell <= 6 * 2**20
        taken = copies.added(taken_by_rows(forecast, settings, 4), lambda n: rest)
        assert taken(n_cells) <= 24 * 2**20 < taken(n_cells + 256)
        for size, phrase in (("16", "with its windows"), ("4TiB", "of main memory")):
            with pytest.raises(UsageError, match=f"--prefix-cache {size}.*{phrase}"):
                sizes(cells="1k", prefix_cache=size)
