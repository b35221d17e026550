"""What ``scripts/run`` and ``scripts/test`` say on a machine that lacks something."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TOOLS = ("bash", "dirname", "find", "git", "grep", "mkdir", "tee", "sed", "head", "touch")


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder with the scripts alone, so that they see no .venv."""
    shutil.copytree(ROOT / "scripts", tmp_path / "checkout" / "scripts")
    return tmp_path / "checkout"


@pytest.fixture
def bin_dir(tmp_path: Path) -> Path:
    """A PATH with the tools that every machine has, and no Python."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for tool in TOOLS:
        found = shutil.which(tool)
        assert found is not None
        (folder / tool).symlink_to(found)
    return folder


def add_python(bin_dir: Path, body: str) -> None:
    python = bin_dir / "python3"
    python.write_text(f"#!{shutil.which('bash')}\n{body}\n")
    python.chmod(0o755)


def stderr_of(checkout: Path, bin_dir: Path, name: str, *args: str, status: int) -> str:
    result = subprocess.run(
        ["bash", str(checkout / "scripts" / name), *args],
        env={"PATH": str(bin_dir)},
        text=True,
        capture_output=True,
    )
    assert result.returncode == status, result.stderr
    assert result.stdout == ""
    return result.stderr


@pytest.fixture(params=["run", "test"])
def command(request, tmp_path) -> tuple[str, ...]:
    model = tmp_path / "model.gguf"
    model.touch()
    return ("run", str(model)) if request.param == "run" else ("test",)


def test_no_python(checkout, bin_dir, command):
    error = stderr_of(checkout, bin_dir, *command, status=1)
    assert error.splitlines() == [
        "scope-cpp: Python 3.10 or newer was not found (python3 is missing):"
        " install one, or set PYTHON"
    ]


def test_old_python(checkout, bin_dir, command):
    add_python(bin_dir, '[ "$1" = --version ] && echo Python 3.8.18 || exit 1')
    error = stderr_of(checkout, bin_dir, *command, status=1)
    assert "python3 is Python 3.8.18" in error and len(error.splitlines()) == 1


def test_python_without_venv(checkout, bin_dir, command):
    add_python(bin_dir, '[[ "$2" != *ensurepip* ]]')
    error = stderr_of(checkout, bin_dir, *command, status=1)
    assert "has no venv module" in error and len(error.splitlines()) == 1


FAKE_VENV = """
case "$*" in
    *"-m venv"*) mkdir -p "${@: -1}/bin"; PIP="$0"; cp_to="${@: -1}/bin/python"
        printf '%s\\n' '#!BASH' '[ "$3" = --version ] && exit 0' "echo 'OUTPUT'" 'exit 1' > "$cp_to"
        PATH=/bin:/usr/bin chmod +x "$cp_to" ;;
    *--version*) echo Python 3.12.0 ;;
esac
"""


@pytest.mark.parametrize(
    ("output", "told"),
    [
        ("NewConnectionError: no route", "the package index could not be reached"),
        ("   scope-cpp: no C++ compiler was found", "scope-cpp: no C++ compiler was found"),
        ("error: unknown", "the build stopped: the reason is near the end of"),
    ],
)
def test_failed_installation_is_explained_in_the_last_line(
    checkout, bin_dir, command, output, told
):
    fake = FAKE_VENV.replace("BASH", str(shutil.which("bash"))).replace("OUTPUT", output)
    add_python(bin_dir, fake)
    error = stderr_of(checkout, bin_dir, *command, status=1)
    assert told in error.splitlines()[-1]
    assert "install.log" in error.splitlines()[-1]


@pytest.mark.parametrize(
    ("args", "told"),
    [(("-n", "5"), "usage: scripts/run"), (("no.gguf",), "is not a file")],
)
def test_run_checks_its_argument_first(checkout, bin_dir, args, told):
    error = stderr_of(checkout, bin_dir, "run", *args, status=2)
    assert told in error and len(error.splitlines()) == 1
