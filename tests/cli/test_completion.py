from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from scope_cli import derive
from scope_cli.program import app
from typer.testing import CliRunner

from scope_cpp.engine.catalog import KNOWN
from scope_cpp.engine.chat import template_names
from scope_cpp.engine.kv_types import KV_TYPES
from scope_cpp.errors import ScopeError
from scope_cpp.eval.tasks import Fidelity
from scope_cpp.policies import decode_policies, prefill_policies

Offer = Callable[[str], list[str]]


@pytest.fixture
def offer() -> Offer:
    """What bash is offered at the end of a line, words cut at ``=`` as it does."""

    def call(line: str) -> list[str]:
        words = line.replace("=", " = ").removesuffix("  ").split(" ")
        if line.endswith("="):
            words = words[:-1] if words[-1] == "" else words
        variables = {"_SCOPE_COMPLETE": "complete_bash", "COMP_WORDS": "\n".join(words)}
        result = CliRunner().invoke(
            app, [], prog_name="scope", env={**variables, "COMP_CWORD": str(len(words) - 1)}
        )
        assert result.exit_code == 0, result.output
        return result.stdout.split()

    return call


def test_policies(offer: Offer) -> None:
    scopes = [name for name in decode_policies() if name.startswith("scope-")]
    for command in ("generate", "chat", "serve", "batch", "plot heatmap"):
        assert offer(f"scope {command} --policy scope-") == scopes
        assert offer(f"scope {command} --prefill s") == ["snapkv", "streaming-llm"]
    assert offer("scope generate --policy ") == list(decode_policies())
    assert offer("scope generate --prefill ") == list(prefill_policies())


def test_lists(offer: Offer) -> None:
    assert offer("scope bench --policy h2o,scope-f") == ["h2o,scope-foresight"]
    assert offer("scope eval run --rows full,pre") == ["full,prefills"]
    assert offer("scope bench -fa on,") == ["on,on", "on,off"]


@pytest.mark.parametrize(
    ("line", "names"),
    [
        ("scope generate -ctk q8", ["q8_0"]),
        ("scope chat -ctv ", list(KV_TYPES)),
        ("scope generate -fa o", ["off", "on"]),
        ("scope generate --granularity ", ["head", "cell"]),
        ("scope serve -sm ", ["none", "layer", "row", "tensor"]),
        ("scope bench --fill ", ["copy", "read", "decode"]),
        ("scope bench -o js", ["json", "jsonl"]),
        ("scope demo --mix ", ["both", "uniform", "hubs"]),
        ("scope eval run --task m", ["math500"]),
        ("scope batch --format ", ["jsonl", "openai", "csv", "text"]),
        ("scope generate --chat-template chatm", ["chatml"]),
        ("scope generate -ngl a", ["auto", "all"]),
        ("scope batch --ray ", ["auto", "local"]),
        ("scope eval run --task fidelity --scorer ", list(Fidelity.scorers)),
        ("scope eval score --scorer st", ["strict"]),
        ("scope eval run --task no-such --scorer ", []),
        ("scope eval run --task needle --task-option depths=", ["10,30,50,70,90"]),
        ("scope chat -m smol", ["smollm2"]),
        ("scope ge", ["generate"]),
        ("scope generate --help", ["--help-all", "--help"]),
    ],
)
def test_names(offer: Offer, line: str, names: list[str]) -> None:
    assert offer(line) == names


def test_names_of_templates(offer: Offer) -> None:
    for command in ("generate", "chat", "batch", "serve", "eval run"):
        assert offer(f"scope {command} --chat-template ") == template_names()
        assert offer(f"scope {command} --chat-template-file ") == []  # then the shell offers files


def test_files_win_over_names_of_models(
    offer: Offer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert offer("scope generate -m ") == list(KNOWN)
    (tmp_path / "small.gguf").touch()
    assert offer("scope generate -m sm") == []  # the shell offers files
    assert offer("scope generate -m q") == [name for name in KNOWN if name.startswith("q")]


def test_without_the_library(offer: Offer, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> None:
        raise ScopeError("libllama can't be loaded")

    monkeypatch.setattr("scope_cpp.engine.chat.template_names", missing)
    assert offer("scope generate --chat-template ") == []


WORDS = re.compile(r"(\w+\|)+\w+")


def commands(group: Any, path: str = "scope") -> Iterator[tuple[str, Any]]:
    for name in group.list_commands(None):
        command = group.get_command(None, name)
        if hasattr(command, "list_commands"):
            yield from commands(command, f"{path} {name}")
        else:
            yield f"{path} {name}", command


def test_whatever_takes_words_offers_words(offer: Offer) -> None:
    """Each option whose help names its values, as ``on|off`` or ``N|auto``."""
    asked = 0
    for path, command in commands(typer.main.get_command(app)):
        for param in command.params:
            shown = derive.fill(str(param.metavar or "")).removesuffix(",...")
            if param.param_type_name == "option" and WORDS.fullmatch(shown):
                long = next(name for name in param.opts if name.startswith("--"))
                words = {word for word in shown.split("|") if not word.isupper()}
                assert words <= set(offer(f"{path} {long} ")), f"{path} {long}"
                asked += 1
    assert asked > 20


def test_options_of_the_policies_that_are_named(offer: Offer) -> None:
    assert "heavy=auto" in offer("scope generate -o ")
    assert "beta1=auto" in offer("scope generate --policy scope-slide -o ")
    assert offer("scope generate --policy streaming-llm -o s") == ["sinks=4"]
    assert "window=32" in offer("scope generate --prefill snapkv -o ")
    assert "window=32" not in offer("scope generate -o ")
    assert offer("scope generate --policy none-such -o ") == []


def test_values_behind_the_equals_sign(offer: Offer) -> None:
    rules = offer("scope generate --policy scope-slide -o score=")
    assert "accumulate" in rules and not any("=" in rule for rule in rules)
    assert offer("scope generate --policy scope-slide -o score=acc") == ["accumulate"]


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")
def test_in_bash(tmp_path: Path) -> None:
    program = tmp_path / "scope"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m scope_cli "$@"\n')
    program.chmod(0o755)
    script = f"""
PATH={tmp_path}:$PATH
source <(_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION=1 scope --show-completion bash)
COMP_WORDS=(scope generate --policy scope-slide -o score = acc) COMP_CWORD=7
_scope_completion scope
echo "${{COMPREPLY[*]}}"
"""
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True)
    assert done.stdout == "accumulate\n", done.stderr
