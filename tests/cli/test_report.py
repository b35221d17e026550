"""The line that sums a generation up, and the settings that chat and JSON show."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from prompt_toolkit.completion import CompleteEvent
from prompt_toolkit.document import Document
from scope_cli.chat import values, views
from scope_cli.chat.commands import complete
from scope_cli.chat.editor import _Completer
from scope_cli.report import status_line

from scope_cpp.engine.conversation import Conversation
from scope_cpp.engine.generate import Stats
from scope_cpp.engine.model import Model
from scope_cpp.engine.settings import Settings
from scope_cpp.policies import decode_policies, prefill_policies

from .conftest import Run


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
    assert line.endswith("| full cache 20010 cells, KV 474 MiB")
    for faster, said in ((1.84, "1.8x as fast"), (1.03, "as fast"), (0.97, "as fast"),
                         (0.9, "1.1x slower"), (0.5, "2.0x slower")):  # fmt: skip
        line = status_line(stats, 20_010, 24576, faster)
        assert line.endswith(f"| full cache 20010 cells, KV 474 MiB, this is about {said}")


def test_a_short_text_does_not_look_as_if_it_took_more() -> None:
    stats = Stats(n_prompt=16, n_generated=100, cells_used=100, cells_capacity=100, evicted=16,
                  kv_bytes=256 * 12288)  # fmt: skip
    line = status_line(stats, 116, 12288)
    assert "| KV 3 MiB (" in line and line.endswith("| full cache 116 cells, KV 3 MiB")


def test_settings_in_force_in_a_chat(tiny: Path) -> None:
    with Model.load(tiny) as model, Conversation(model, settings=Settings(n_threads=1)) as talk:
        shown = dict(line.split(maxsplit=1) for line in views.settings(talk).splitlines())
        assert "default" not in views.settings(talk)
        assert shown["policy"] == talk.cache.decode_policy.name == "scope-retrieval"
        assert f" heavy={talk.cache.decode_policy.heavy} " in views.settings(talk)
        assert max(map(len, views.settings(talk).splitlines())) <= 80
        assert shown["budget"] == f"{talk.cache.capacity} cells"
        assert (shown["n-threads"], shown["n-predict"]) == ("1", "no limit")
        assert (shown["flash-attn"], shown["n-ubatch"]) == ("off", "128")
        assert views.policy(talk).startswith("scope-retrieval ")
        assert re.fullmatch(
            rf"0 of {talk.cache.capacity} cells are used; the cache takes [\d.]+ [KM]iB "
            r"\(K f16, V f16\)",
            views.budget(talk),
        )


def test_settings_in_force_in_json(generate: Callable[..., dict[str, Any]]) -> None:
    told = generate("-p", "Hello cat", "-n", 60, "--budget", 40)["settings"]
    assert told["policy"] == "scope-retrieval" and told["budget"] <= 40
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
    assert list(complete(["/set", "temp"]) or ()) == ["default", "0", "0.8"]


def test_every_name_of_set_has_values_that_it_takes() -> None:
    for name in values.names():
        offered = complete(["/set", name])
        if offered is None:
            assert name in ("grammar-file", "json-schema-file", "jf")
        else:
            assert "default" in offered
            assert len(list(offered)) > 1 or name in (
                "grammar",
                "json-schema",
                "j",
                "logit-bias",
                "l",
            )
    assert complete(["/set", "nonsense"]) == []
    assert list(complete(["/set", "ignore-eos"]) or ()) == ["default", "on", "off"]


@pytest.mark.parametrize("line", ["/read {}a f", "/set grammar-file {}a f", "/save  {}a f"])
def test_names_of_files_are_completed(tmp_path: Path, line: str) -> None:
    (tmp_path / "a file").touch()
    document = Document(line.format(f"{tmp_path}/"))
    (found,) = _Completer(complete).get_completions(document, CompleteEvent())
    assert found.text == "ile"


def test_verbose_shows_the_settings_in_force(run: Run, tiny: Path) -> None:
    shown = run("generate", tiny, "-p", "the", "-n", 3, "-t", 1, "--budget", 40, "-v").stderr
    assert re.search(r"^policy +scope-retrieval$", shown, re.M)
    assert re.search(r"^budget +\d+ cells$", shown, re.M)
    assert re.search(r"^n-threads +1$", shown, re.M)
    assert "policy" not in run("generate", tiny, "-p", "the", "-n", 3, "-t", 1).stderr


def test_what_took_no_time_has_no_rate() -> None:
    line = status_line(Stats(n_prompt=0, n_generated=1, prompt_seconds=0.5), 9, 12288)
    assert line.startswith("prompt not read again | generated 1 | cells ")
