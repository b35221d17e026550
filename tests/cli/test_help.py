from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import fields
from inspect import signature
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import typer.main
from scope_cli import derive, help_page
from scope_cli.groups import as_command, variable
from scope_cli.program import app

import scope_cpp
from scope_cpp.engine.sampling_params import SamplingParams
from scope_cpp.engine.settings import Settings

from .conftest import Run, assert_refused

ROOT = Path(__file__).resolve().parents[2]
GROUP: Any = typer.main.get_command(app)


def leaves(group: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from leaves(command, (*path, name))
        else:
            yield (*path, name), command


COMMANDS = dict(leaves(GROUP))
PAGES = [
    (),
    ("eval",),
    *((*path, flag) for path in COMMANDS for flag in ("--help", "--help-all")),
]

_SPELLINGS = """
-m --model -hf --hf-repo -hff --hf-file --offline --no-mmap --mlock
-ngl --n-gpu-layers -sm --split-mode -mg --main-gpu -ts --tensor-split
-p --prompt -f --file -sys --system-prompt --chat --chat-template --chat-template-file -no-cnv
-n --n-predict --stop --json --config -v --verbose
-c --ctx-size -ctk --cache-type-k -ctv --cache-type-v -fa --flash-attn
--budget --policy --prefill --granularity -o --option
--temp --top-k --top-p --min-p --typical --repeat-penalty --repeat-last-n --presence-penalty
--frequency-penalty -s --seed --grammar --grammar-file --logit-bias
-j --json-schema -jf --json-schema-file --ignore-eos
-t --threads -tb --threads-batch -b --batch-size -ub --ubatch-size
"""


def options(command: Any) -> Iterator[Any]:
    for param in command.params:
        if param.param_type_name == "option" and param.name != "help_all":
            yield param


def words(text: str) -> list[str]:
    return text.split()


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
    assert any(spelling in param.opts for param in COMMANDS["generate",].params)


@pytest.mark.parametrize("path", COMMANDS)
def test_all_options_are_shown_by_help_all(run: Run, path: tuple[str, ...]) -> None:
    shown = words(run(*path, "--help-all").stdout.replace(",", ""))
    for param in options(COMMANDS[path]):
        assert all(spelling in shown for spelling in param.opts)


@pytest.mark.parametrize("path", COMMANDS)
def test_the_rule_of_the_variables(run: Run, path: tuple[str, ...]) -> None:
    for param in options(COMMANDS[path]):
        assert param.envvar == variable(next(n for n in param.opts if n.startswith("--")))
    shown = run(*path, "--help-all").stdout
    assert shown.count("SCOPE_") == shown.count("SCOPE_BUDGET=2k") + 1 == 2


@pytest.mark.parametrize("path", COMMANDS)
def test_help_is_short(run: Run, path: tuple[str, ...]) -> None:
    command = COMMANDS[path]
    assert len(command.first) <= 10
    shown = run(*path, "--help").stdout
    if len(list(options(command))) > 12:
        assert len(command.first) >= 6
        assert len(shown.splitlines()) <= 55
        assert shown.endswith(f"All options: scope {' '.join(path)} --help-all\n")
    for name in command.first:
        assert f"{name}" in words(shown.replace(",", ""))


@pytest.mark.parametrize("width", [60, 80, 200])
def test_lines_break_between_words(monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    for path, command in COMMANDS.items():
        ctx = SimpleNamespace(
            command_path=" ".join(("scope", *path)), help_option_names=["-h", "--help"]
        )
        for first in {(), command.first}:
            shown = help_page.command_help(command, ctx, first)
            assert max(map(len, shown.splitlines())) <= width, path
            flowed = " ".join(words(shown))
            for param in options(command):
                if not first or set(first) & set(param.opts):
                    assert " ".join(words(help_page.text_of(param))) in flowed


@pytest.mark.parametrize("width", [60, 80, 200])
@pytest.mark.parametrize("path", [(), ("eval",), ("plot",)])
def test_lists_of_commands_fit(
    run: Run, monkeypatch: pytest.MonkeyPatch, path: tuple[str, ...], width: int
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    shown = run(*path).stdout
    assert max(map(len, shown.splitlines())) <= width
    assert all(f"  {name[-1]} " in shown for name in COMMANDS if name[:-1] == path)


def test_an_example_is_broken_as_a_shell_takes_it() -> None:
    page = help_page.Page(width=40, colour=False)
    page.description('scope generate model.gguf -p "Once upon a time" -n 2000 --budget 512')
    assert str(page) == (
        "  scope generate model.gguf \\\n"
        '      -p "Once upon a time" -n 2000 \\\n'
        "      --budget 512"
    )  # fmt: skip


def test_headings_are_bold_on_a_terminal_only() -> None:
    for colour, heading in ((True, "\x1b[1mOptions:\x1b[0m"), (False, "Options:")):
        page = help_page.Page(width=80, colour=colour)
        page.entries("Options", [("-x", "A switch.")])
        assert str(page) == f"{heading}\n  -x  A switch."


@pytest.mark.parametrize("path", COMMANDS)
def test_every_text_is_a_whole_sentence(path: tuple[str, ...]) -> None:
    for param in COMMANDS[path].params:
        text = derive.fill(param.help or "")
        assert re.fullmatch(r"[A-Z].*[^.]\.", text), f"{param.name}: {text!r}"
        assert "{" not in help_page.text_of(param)
        assert "None" not in help_page.text_of(param)
    for part in (COMMANDS[path].help or "").split("\n\n"):
        assert part.strip().startswith("scope ") or part.strip().endswith(".")


@pytest.mark.parametrize(("page", "made"), [([], []), (["inspect"], ["inspect"])])
def test_only_the_command_that_is_asked_for_is_made(
    run: Run, monkeypatch: pytest.MonkeyPatch, page: list[str], made: list[str]
) -> None:
    """To make all of them takes longer than everything else that help does."""
    seen = []

    def note(function: Any) -> Any:
        seen.append(function.__name__)
        return as_command(function)

    monkeypatch.setattr("scope_cli.app.as_command", note)
    assert run(*page, "--help").exit_code == 0
    assert seen == made


def test_no_help_page_needs_numpy_the_native_library_or_rich() -> None:
    code = """
import os, sys
sys.modules["numpy"] = sys.modules["scope_cpp.native.library"] = sys.modules["rich"] = None
from typer.testing import CliRunner
from scope_cli.program import app
for page in sys.argv[1:]:
    result = CliRunner().invoke(app, page.split(), prog_name="scope")
    assert result.exit_code == 0, (page, result.output)
    assert result.stdout.startswith("Usage: scope "), page
assert not [name for name in sys.modules if "llama_cpp" in name]
"""
    pages = ["--help", *(" ".join(page) for page in PAGES if page and page[-1].startswith("--"))]
    done = subprocess.run([sys.executable, "-c", code, *pages], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


# -- defaults


def default(path: str, flag: str) -> str:
    found = [param for param in COMMANDS[tuple(path.split())].params if flag in param.opts]
    return help_page.default_of(found[0])


@pytest.mark.parametrize("command", ["generate", "chat", "serve", "batch"])
def test_sampling_defaults_are_the_engines(monkeypatch: pytest.MonkeyPatch, command: str) -> None:
    flags = {"temp": "--temp", "top_k": "--top-k", "top_p": "--top-p", "min_p": "--min-p",
             "typical_p": "--typical", "repeat_penalty": "--repeat-penalty",
             "repeat_last_n": "--repeat-last-n", "presence_penalty": "--presence-penalty",
             "frequency_penalty": "--frequency-penalty"}  # fmt: skip
    assert set(flags) < {item.name for item in fields(SamplingParams)}
    for name, flag in flags.items():
        assert default(command, flag) == f"{getattr(SamplingParams(), name):g}"
        monkeypatch.setattr(SamplingParams, name, 0.125)
        assert default(command, flag) == "0.125"


@pytest.mark.parametrize("command", ["generate", "chat", "serve", "batch", "plot heatmap"])
def test_settings_defaults_are_the_engines(monkeypatch: pytest.MonkeyPatch, command: str) -> None:
    flags = {"prefill": "--prefill", "granularity": "--granularity", "type_k": "-ctk",
             "type_v": "-ctv", "flash_attn": "-fa", "n_batch": "-b", "n_ubatch": "-ub"}  # fmt: skip
    for name, flag in flags.items():
        assert default(command, flag) == str(getattr(Settings(), name))
        monkeypatch.setattr(Settings, name, "another")
        assert default(command, flag) == "another"


def test_the_default_policy_is_the_engines_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    from scope_cpp.bench.request import Request
    from scope_cpp.bench.row import Compute
    from scope_cpp.engine.settings import DEFAULT_POLICY

    for command in ("generate", "chat", "serve", "batch", "plot heatmap"):
        assert default(command, "--policy") == DEFAULT_POLICY
    (row,) = Request(Compute("model.gguf")).chosen()
    assert (row["policy"], row["options"]) == (DEFAULT_POLICY, ())
    assert default("bench", "--policy") == DEFAULT_POLICY
    assert f"| `{DEFAULT_POLICY}` (default)" in (ROOT / "README.md").read_text()
    monkeypatch.setattr("scope_cpp.engine.settings.DEFAULT_POLICY", "another")
    assert default("generate", "--policy") == "another"


def test_other_defaults_are_the_ones_in_force() -> None:
    from scope_cli.bench_flags import BenchFlags, RowFlags, request_of
    from scope_cli.eval_flags import EvalRowFlags, TaskFlags, asked_of, grid_of
    from scope_cli.flags import ComputeFlags
    from scope_cli.serve_flags import (
        LimitFlags,
        ParallelFlags,
        ServeOutputFlags,
        ServerFlags,
        options_of,
    )

    from scope_cpp.bench import report
    from scope_cpp.engine.budget import DEFAULT_GENERATED_CELLS
    from scope_cpp.engine.settings import CHAT_CELLS
    from scope_cpp.eval.compare import compare
    from scope_cpp.eval.run import Evaluation
    from scope_cpp.eval.score import score
    from scope_cpp.eval.task import Task
    from scope_cpp.eval.tasks.fidelity import Fidelity
    from scope_cpp.native.library import llama_cpp

    served = options_of(ServerFlags(), ParallelFlags(), LimitFlags(), ServeOutputFlags())
    for flag, value in (
        ("--host", served.host), ("--port", served.port), ("-np", served.n_parallel),
        ("--queue", served.queue), ("-n", served.n_predict), ("--grace", f"{served.grace:g}"),
        ("--timeout", f"{served.timeout:g}"), ("--body-timeout", f"{served.body_timeout:g}"),
        ("--max-connections", served.max_connections),
        ("--max-body", f"{served.max_body >> 20}MiB"),
    ):  # fmt: skip
        assert default("serve", flag) == str(value)
    asked = request_of("model.gguf", BenchFlags(), RowFlags(), ComputeFlags())
    assert default("bench", "--beta") == str(asked.beta)
    assert default("bench", "-fa") == ", ".join(asked.flash)
    assert default("bench", "-np") == ", ".join(map(str, asked.n_parallel))
    assert default("bench", "-n").startswith(str(asked.steps("gen")))
    assert f"memory {asked.rounds('memory')}" in default("bench", "-r")
    assert asked.compute.n_batch == Settings.n_batch
    run = asked_of(TaskFlags(), False)
    assert (default("eval run", "--task"), default("eval run", "-s")) == (run.task, "0")
    assert (run.seeds, run.temp) == ((0,), None)
    assert default("eval run", "--temp") == f"{Task.temp:g}, for fidelity {Fidelity.temp:g}"
    rows = [row.name for row in grid_of(EvalRowFlags(), ComputeFlags()).rows(64)]
    assert rows == [text.partition(":")[0] for text in default("eval run", "--rows").split(", ")]
    assert str(DEFAULT_GENERATED_CELLS) in default("generate", "--budget")
    assert default("chat", "--budget").startswith(str(CHAT_CELLS))
    # what the flags have as a value of their own
    assert default("eval run", "-j") == str(signature(Evaluation).parameters["jobs"].default)
    assert default("eval compare", "-s") == str(signature(compare).parameters["seed"].default)
    assert default("eval score", "-s") == str(signature(score).parameters["seed"].default)
    outputs = next(p for p in COMMANDS["bench",].params if p.name == "output")
    assert outputs.metavar == "|".join(report.FORMATS)
    native = llama_cpp.llama_model_default_params()
    assert (native.n_gpu_layers, default("generate", "-ngl")) == (-1, "all")
    assert (native.split_mode, default("generate", "-sm")) == (1, "layer")
    assert (native.main_gpu, default("generate", "-mg")) == (0, "0")


def test_help_names_every_policy(run: Run) -> None:
    from scope_cpp.policies import decode_policies, prefill_policies

    shown = run("generate", "--help-all").stdout
    assert all(name in shown for name in (*decode_policies(), *prefill_policies()))


# -- what is said where nothing is asked for, or what there is not


def test_version_and_completion(run: Run) -> None:
    assert run("--version").stdout == f"scope-cpp {scope_cpp.__version__}\n"
    assert "--install-completion" in run("--help").stdout


@pytest.mark.parametrize("path", [(), ("eval",), ("plot",)])
def test_no_command_shows_the_help(run: Run, path: tuple[str, ...]) -> None:
    result = run(*path)
    assert result.exit_code == 2
    assert result.stdout == run(*path, "--help").stdout
    assert result.stderr == ""


@pytest.mark.parametrize(
    ("args", "phrase"),
    [
        (["chatter"], "scope has no command 'chatter': did you mean chat?"),
        (["model.gguf"], "name a command before the model, such as 'scope chat model.gguf'"),
        (["zzz"], "scope has no command 'zzz': see 'scope --help'"),
        (["eval", "runn"], "scope eval has no command 'runn': did you mean run?"),
        (["generate", "--polcy", "h2o"], "scope generate has no option --polcy: did you mean"
         " --policy?"),
        (["generate", "-nkvo"], "scope generate has no option -nkvo: see 'scope generate"
         " --help-all'"),
        (["generate", "-ctx", "9"], "scope generate has no option -ctx: did you mean -ctv or"
         " -ctk?"),
        (["generate", "-n"], "Option '-n' requires an argument"),
        (["generate", "-n", "many"], "-n/--n-predict: give a whole number"),
        (["generate", "--temp", "hot"], "--temp: give a number"),
        (["generate", "-t", "0"], "-t/--threads: give at least 1"),
        (["bench", "-o", "xml"], "-o/--output: give one of 'table', 'md', 'csv', 'json', 'jsonl'"),
        (["batch"], "no input: give a file of rows with -i, or -i - for stdin"),
        (["bench"], "no model: give the path of a GGUF file, or a name such as -m smollm2 or"),
        (["inspect"], "no model: give the path of a GGUF file, or a name such as -m smollm2 or"),
    ],
)  # fmt: skip
def test_one_line_with_the_nearest_name(run: Run, args: list[str], phrase: str) -> None:
    assert_refused(run(*args), 2, phrase)


def test_a_variable_of_a_wrong_value_is_named(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCOPE_N_PREDICT", "many")
    assert_refused(run("generate"), 2, "SCOPE_N_PREDICT: give a whole number")
