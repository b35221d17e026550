from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import typer.main
from scope_cli.main import app

import scope_cpp

from .conftest import Run

ROOT = Path(__file__).resolve().parents[2]
COMMANDS: dict[str, Any] = typer.main.get_command(app).commands  # type: ignore[attr-defined]

_SPELLINGS = """
-m --model -hf --hf-repo -hff --hf-file --offline --no-mmap --mlock
-ngl --n-gpu-layers -sm --split-mode -mg --main-gpu -ts --tensor-split
-p --prompt -f --file -sys --system-prompt --chat --chat-template --chat-template-file -no-cnv
-n --n-predict --stop --json --config -v --verbose
-c --ctx-size -ctk --cache-type-k -ctv --cache-type-v -fa --flash-attn
--budget --policy --prefill --granularity -o --option
--temp --top-k --top-p --min-p --typical --repeat-penalty --repeat-last-n --presence-penalty
--frequency-penalty -s --seed --grammar --grammar-file --json-schema --logit-bias --ignore-eos
-t --threads -tb --threads-batch -b --batch-size -ub --ubatch-size
"""


@pytest.fixture(autouse=True)
def _wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "250")
    monkeypatch.setenv("TERMINAL_WIDTH", "250")
    monkeypatch.setenv("NO_COLOR", "1")


def make_docs() -> ModuleType:
    path = ROOT / "scripts" / "make_cli_docs.py"
    spec = importlib.util.spec_from_file_location("make_cli_docs", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_docs_are_up_to_date() -> None:
    assert (ROOT / "docs" / "cli.md").read_text() == make_docs().render()


@pytest.mark.parametrize("spelling", _SPELLINGS.split())
def test_llama_cpps_spellings(spelling: str) -> None:
    assert any(spelling in param.opts for param in COMMANDS["generate"].params)


@pytest.mark.parametrize("name", COMMANDS)
def test_help_shows_every_flag_and_its_variable(run: Run, name: str) -> None:
    shown = run(name, "--help").stdout
    for param in COMMANDS[name].params:
        if param.param_type_name == "option":
            assert all(spelling in shown for spelling in param.opts)
            assert param.envvar in shown


@pytest.mark.parametrize("group", ["eval", "plot"])
def test_help_names_every_argument(group: str) -> None:
    for name, command in COMMANDS[group].commands.items():
        for param in command.params:
            if param.param_type_name == "argument":
                assert param.metavar and param.help, f"{group} {name}: {param.name}"


def test_help_is_in_panels(run: Run) -> None:
    shown = run("generate", "--help").stdout
    for panel in ("Model", "Prompt", "KV cache and eviction", "Sampling", "Compute", "Output"):
        assert f"─ {panel} " in shown


def test_help_names_every_policy(run: Run) -> None:
    from scope_cpp.policies import decode_policies, prefill_policies

    shown = run("generate", "--help").stdout
    assert all(name in shown for name in (*decode_policies(), *prefill_policies()))


def test_version_and_completion(run: Run) -> None:
    assert run("--version").stdout == f"scope-cpp {scope_cpp.__version__}\n"
    assert "--install-completion" in run("--help").stdout


def test_no_command_shows_the_help(run: Run) -> None:
    result = run()
    assert result.exit_code == 2
    assert "generate" in result.stdout
    assert result.stderr == ""
    assert run("chatter").stderr.startswith("error: No such command 'chatter'")
