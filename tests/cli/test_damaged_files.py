"""The command on damaged files: an exit code and one line, and no word of theirs is a command."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from scope_cpp.reference.tiny_model import write_tiny_model
from tests.damaged import ARRAY, BOOL, F32, FATAL, STRING, U32, Array, setting, write_damaged

from .conftest import Run, assert_refused, spawn
from .pty_screen import Terminal

# sets the window's title, clears the screen, begins a line, turns the direction of what follows
NASTY = "\x1b]0;title\x07\x1b[2J\nerror: false\x9b31m\u202egpj"
SHOWN = "␛]0;title␇␛[2J error: false\ufffd31m\ufffdgpj"

COMMANDS = [
    ["inspect"],
    ["generate", "-p", "hi", "-n", "5"],
    ["chat", "-p", "hi", "-st"],
    ["batch", "-i", "rows.jsonl", "-o", "out.jsonl"],
    ["eval", "run", "--task", "reference", "--limit", "1"],
    ["serve", "--port", "0"],
    ["bench", "-d", "64"],
]


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command[0])
@pytest.mark.parametrize("what", ["no layers", "no vocabulary"])
def test_every_command_ends_in_one_line(tmp_path: Path, command: list[str], what: str) -> None:
    change = {"no vocabulary": setting("tokenizer.ggml.model", STRING, b"no_vocab")}
    path = write_damaged(tmp_path / "bad.gguf", change.get(what) or FATAL[what][0])
    (tmp_path / "rows.jsonl").write_text('{"id": "1", "prompt": "hi"}\n')
    with spawn(*command, "-m", path, cwd=tmp_path) as process:
        out, err = process.communicate()
    assert (process.returncode, out) == (1, b"")
    (line,) = err.decode().splitlines()
    assert line.startswith(f"error: {path}")


def test_what_is_only_computed_wrongly_is_told_by_inspect(run: Run, tmp_path: Path) -> None:
    path = write_damaged(tmp_path / "bad.gguf", FATAL["negative epsilon"][0])
    assert run("inspect", path).exit_code == 0
    assert_refused(run("generate", path, "-p", "hi"), 1, "its first tokens are computed")


@pytest.fixture
def nasty(tmp_path: Path) -> Path:
    """A good model that calls itself something nasty."""
    change = setting("general.name", STRING, NASTY.encode())
    return write_damaged(tmp_path / "nasty.gguf", change)


def test_inspect_shows_a_name_harmless(run: Run, nasty: Path) -> None:
    lines = run("inspect", nasty).stdout.splitlines()
    assert lines[1].split(maxsplit=1) == ["name", SHOWN]
    assert json.loads(run("inspect", nasty, "--json").stdout)["name"] == NASTY


def test_errors_show_what_a_file_says_harmless(run: Run, tmp_path: Path) -> None:
    change = setting("general.architecture", STRING, NASTY.encode())
    result = run("inspect", write_damaged(tmp_path / "nasty.gguf", change))
    assert_refused(result, 1, "does not support the architecture")
    assert "\x1b" not in result.stderr and "␛]0;title␇" in result.stderr


def test_the_log_shows_it_harmless_too(run: Run, nasty: Path) -> None:
    log = run("inspect", nasty, "-v").stderr
    assert "␛]0;title␇" in log
    assert not {"\x1b", "\x07", "\x9b", "\u202e"} & set(log)


def test_a_template_that_fails_shows_it_harmless_too(run: Run, tmp_path: Path) -> None:
    template = "{{ raise_exception('\x1b[2J\nno') }}"
    path = write_tiny_model(tmp_path / "tiny.gguf", chat_template=template)
    assert_refused(run("generate", path, "-p", "hi"), 1, "␛[2J no")


TEMPLATE = "tokenizer.chat_template"


@pytest.mark.parametrize("command", [["inspect"], ["generate", "-p", "hi"]], ids=lambda it: it[0])
@pytest.mark.parametrize(
    ("kind", "value"),
    [(U32, 5), (F32, 0.5), (BOOL, True), (ARRAY, Array(STRING, [b"{{ 1 }}"] * 3))],
    ids=["number", "fraction", "truth", "texts"],
)
def test_a_template_that_is_no_text(
    run: Run, tmp_path: Path, command: list[str], kind: int, value: object
) -> None:
    path = write_damaged(tmp_path / "bad.gguf", setting(TEMPLATE, kind, value))
    name, *rest = command
    assert_refused(run(name, path, *rest), 1, f"bad.gguf is damaged: {TEMPLATE} is no text")


@pytest.mark.parametrize("command", COMMANDS[1:5], ids=lambda command: command[0])
@pytest.mark.parametrize(
    ("template", "cause"),
    [("{% for %}", "line 1"), ("{{ raise_exception('no') }}", "no"), ("hello", "leaves out")],
)
def test_a_template_of_the_file_that_fails(
    run: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    command: list[str],
    template: str,
    cause: str,
) -> None:
    """The file is at fault: 1; a template that was given is usage: 2."""
    monkeypatch.chdir(tmp_path)
    name, *rest = command
    words, rest = ([name, rest[0]], [*rest[1:], "--template"]) if name == "eval" else ([name], rest)
    (tmp_path / "rows.jsonl").write_text('{"messages": [{"role": "user", "content": "hi"}]}\n')
    path = write_tiny_model(tmp_path / "tiny.gguf", chat_template=template)
    result = run(*words, path, *rest)
    assert result.exit_code == 1 and "the chat template failed" in result.stderr
    assert cause in result.stderr and "Traceback" not in result.stderr
    if "{" in template and name in ("generate", "chat"):
        assert_refused(run(*words, path, *rest, "--chat-template", template), 2, cause)


ESCAPES: list[Any] = ["--raw", "-p", "hi", "-n", 3, "--temp", 0, "--logit-bias", "30=1000"]


def test_what_a_model_writes_is_exact_in_a_pipe(run: Run, tiny: Path) -> None:
    """Token 30 is the byte 0x1B."""
    assert run("generate", tiny, *ESCAPES).stdout == "\x1b\x1b\x1b\n"
    assert json.loads(run("generate", tiny, *ESCAPES, "--json").stdout)["text"] == "\x1b" * 3


def test_what_a_model_writes_is_harmless_on_a_terminal(tiny: Path) -> None:
    with Terminal("generate", tiny, *ESCAPES) as terminal:
        assert terminal.exit_code() == 0
    assert "␛␛␛".encode() in terminal.raw
    assert b"\x1b\x1b" not in terminal.raw
