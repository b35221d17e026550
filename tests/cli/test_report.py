"""The line that sums a generation up, and the settings that chat and JSON show."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from scope_cli.chat import views
from scope_cli.chat.commands import complete
from scope_cli.report import status_line

from scope_cpp.engine.conversation import Conversation
from scope_cpp.engine.generate import Stats
from scope_cpp.engine.model import Model
from scope_cpp.engine.settings import Settings
from scope_cpp.policies import decode_policies, prefill_policies


def test_a_short_text_is_not_shown_as_more_than_the_full_cache() -> None:
    stats = Stats(
        n_prompt=10,
        n_generated=20,
        cells_used=30,
        cells_capacity=8192,
        kv_bytes=192 << 20,
        compute_bytes=9 << 20,
        query_bytes=8 << 20,
        selection_bytes=7 << 20,
    )
    line = status_line(stats, 30, 24576)
    assert (
        "cells 30/8192, nothing is evicted | KV 192 MiB (216 MiB with buffers) reserved for "
        in line
    )
    assert "full cache" not in line and "attention loss" not in line


def test_what_the_full_cache_would_take() -> None:
    stats = Stats(n_prompt=10, n_generated=20_000, cells_used=8192, cells_capacity=8192,
                  evicted=11_818, attention_loss=0.012, kv_bytes=192 << 20)  # fmt: skip
    line = status_line(stats, 20_010, 24576)
    assert "cells 8192/8192, evicted 11818 | attention loss 1.20% | KV 192 MiB (" in line
    assert line.endswith("| full cache 20010 cells, KV 469 MiB")


def test_settings_in_force_in_a_chat(tiny: Path) -> None:
    with Model.load(tiny) as model, Conversation(model, settings=Settings(n_threads=1)) as talk:
        shown = dict(line.split(maxsplit=1) for line in views.settings(talk).splitlines())
        assert "default" not in views.settings(talk)
        assert shown["policy"] == talk.cache.decode_policy.name == "scope-foresight"
        assert f" beta1={talk.cache.decode_policy.beta1} " in views.settings(talk)
        assert max(map(len, views.settings(talk).splitlines())) <= 80
        assert shown["budget"] == f"{talk.cache.capacity} cells"
        assert (shown["n-threads"], shown["n-predict"]) == ("1", "no limit")
        assert (shown["flash-attn"], shown["n-ubatch"]) == ("off", "128")
        assert views.policy(talk).startswith("scope-foresight ")


def test_settings_in_force_in_json(generate: Callable[..., dict[str, Any]]) -> None:
    told = generate("-p", "Hello cat", "-n", 60, "--budget", 40)["settings"]
    assert told["policy"] == "scope-foresight" and told["budget"] <= 40
    assert (told["flash_attn"], told["n_threads"]) == ("off", 1)
    assert None not in told["options"].values()


def test_completion_in_a_chat() -> None:
    policies = list(decode_policies())
    offered = list(complete(["/policy"]) or ())
    assert offered[: len(policies)] == policies
    assert [f"prefill={name}" for name in prefill_policies()] == [
        word for word in offered if word.startswith("prefill=")
    ]
    assert "sinks=4" in list(complete(["/policy", "streaming-llm"]) or ())
    assert "granularity=cell" in offered
    assert list(complete(["/set", "temp"]) or ()) == ["default"]
