"""Children are started from folders that hold modules of other people's making."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import scope_cpp
from scope_cpp import child
from scope_cpp.bench.measure import Bench
from scope_cpp.bench.request import Request
from scope_cpp.bench.row import Compute
from scope_cpp.engine import jinja_sandbox
from scope_cpp.errors import ScopeError

NAMES = ("numpy", "json", "typer", "runpy", "os", "jinja2", "random", "scope_cli")


@pytest.fixture
def poisoned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, in which every import fails and leaves a mark."""
    code = f"open({str(tmp_path / 'ran')!r}, 'a').write(__name__); raise SystemExit(66)\n"
    for name in NAMES:
        (tmp_path / f"{name}.py").write_text(code)
    (tmp_path / "scope_cpp").mkdir()
    (tmp_path / "scope_cpp" / "__init__.py").write_text(code)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(command: list[str], **more: object) -> str:
    done = subprocess.run(command, capture_output=True, text=True, **more)  # type: ignore[call-overload]
    assert done.returncode == 0, done.stderr
    return str(done.stdout)


def test_a_module_and_its_arguments(poisoned: Path) -> None:
    out = run(child.command("scope_cli", "--version"))
    assert out == f"scope-cpp {scope_cpp.__version__}\n"
    assert not (poisoned / "ran").exists()


@pytest.mark.parametrize("site", [True, False])
def test_a_file_sees_its_parents_path(poisoned: Path, site: bool) -> None:
    program = poisoned / "program.py"
    program.write_text(
        "import sys\nrest = sys.argv[1:]\nimport json as j\n"
        "sys.stdout.write(j.dumps([rest, sys.path, __name__]))\n"
    )
    told = json.loads(run(child.command(program, "a b", 7, site=site)))
    assert told == [["a b", "7"], sys.path, "__main__"]
    assert not (poisoned / "ran").exists()


def test_variables_of_python_are_left_as_they_are(
    poisoned: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = poisoned / "own"
    own.mkdir()
    (own / "mine.py").write_text(
        "import os\nprint({n: v for n, v in os.environ.items() if n.startswith('PYTHON')})\n"
    )
    given = {"PYTHONPATH": str(own), "PYTHONSTARTUP": str(poisoned / "numpy.py"),
             "PYTHONUSERBASE": str(poisoned), "PYTHONUTF8": "1"}  # fmt: skip
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    monkeypatch.syspath_prepend(str(own))  # as this process has it, started with PYTHONPATH
    shown = run(child.command("mine"))
    assert all(f"{name!r}: {value!r}" in shown for name, value in given.items())
    assert not (poisoned / "ran").exists()


def test_switches_are_those_of_the_parent() -> None:
    code = "from scope_cpp import child; print(child.command('m')[1:3])"
    assert run([sys.executable, "-I", "-c", code]) == "['-I', '-E']\n"
    assert run([sys.executable, "-s", "-c", code]) == "['-s', '-c']\n"


def test_without_a_python(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.executable", "")
    with pytest.raises(ScopeError, match="does not know its own path"):
        child.command("scope_cli")


def test_rows_of_a_bench(poisoned: Path, tiny: Callable[..., Path]) -> None:
    compute = Compute(str(tiny()), n_threads=1)
    asked = Request(compute, n_prompts=(40,), depths=(120,), n_gen=2, repetitions=1, beta=48)
    report = Bench(asked).run()
    assert [outcome.error for outcome in report.outcomes] == [None] * len(report.outcomes)
    assert not (poisoned / "ran").exists()


def test_templates(poisoned: Path) -> None:
    jinja_sandbox._worker.close()
    assert jinja_sandbox.render("{{ who }}", {"who": "me"}) == "me"
    assert not (poisoned / "ran").exists()
