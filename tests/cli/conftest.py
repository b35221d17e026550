"""The command on tiny models: in this process, and as a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from scope_cli.program import app
from typer.testing import CliRunner, Result

from scope_cpp import child
from scope_cpp.reference.tiny_model import write_tiny_model

TEMPLATE = (
    "{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}[assistant] {% endif %}"
)

Run = Callable[..., Result]


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("cli") / "tiny.gguf"
    return write_tiny_model(path, chat_template=TEMPLATE)


@pytest.fixture(autouse=True)
def _one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCOPE_THREADS", "1")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


@pytest.fixture
def run() -> Run:
    """Run the command in this process."""

    def call(*args: object, stdin: str | bytes | None = None) -> Result:
        return CliRunner().invoke(app, [str(arg) for arg in args], input=stdin, prog_name="scope")

    return call


@pytest.fixture
def generate(run: Run, tiny: Path) -> Callable[..., dict[str, Any]]:
    """Return the JSON object of a greedy generation."""

    def call(*args: object, stdin: str | None = None) -> dict[str, Any]:
        result = run("generate", tiny, "--temp", 0, "--json", *args, stdin=stdin)
        assert result.exit_code == 0, result.stderr
        return dict(json.loads(result.stdout))

    return call


def spawn(
    *args: object, env: dict[str, str] | None = None, **extra: Any
) -> subprocess.Popen[bytes]:
    """Start the command as a process of its own."""
    command = child.command("scope_cli", *args)
    streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, env={**os.environ, **(env or {})}, **{**streams, **extra})


def assert_refused(result: Result, exit_code: int, phrase: str) -> None:
    """One line on stderr that says why, nothing on stdout."""
    assert result.exit_code == exit_code, result.stderr
    assert result.stdout == ""
    lines = result.stderr.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("error: ")
    assert phrase in lines[0]
