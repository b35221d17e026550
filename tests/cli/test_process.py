"""What only a process of its own shows: signals, pipes, terminals, aborts."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from .conftest import spawn

posix = pytest.mark.skipif(os.name != "posix", reason="signals, /dev/full and terminals of POSIX")

WITHOUT_END = ("-p", "Hello", "-n", "-1", "--ignore-eos", "--budget", "200", "--temp", "0")


def finish(process: subprocess.Popen[bytes]) -> tuple[bytes, str]:
    out, err = process.communicate(timeout=120)
    return out or b"", (err or b"").decode()


@posix
def test_ctrl_c_keeps_what_was_written(tiny: Path) -> None:
    process = spawn("generate", tiny, *WITHOUT_END)
    assert process.stdout is not None
    first = os.read(process.stdout.fileno(), 5)
    process.send_signal(signal.SIGINT)
    out, err = finish(process)
    assert process.returncode == 130
    assert first
    assert out.endswith(b"\n")
    lines = err.splitlines()
    assert all(line.startswith("warning: ") for line in lines)
    assert sum("the output may never end" in line and "-n or -c" in line for line in lines) == 1


@posix
def test_ctrl_c_while_the_model_loads(tiny: Path) -> None:
    process = spawn("generate", tiny, *WITHOUT_END, "-v")
    assert process.stderr is not None
    os.read(process.stderr.fileno(), 1)
    process.send_signal(signal.SIGINT)
    _, err = finish(process)
    assert process.returncode == 130
    assert "Traceback" not in err
    assert "Exception ignored" not in err


@posix
def test_a_reader_that_goes_away(tiny: Path) -> None:
    process = spawn("generate", tiny, *WITHOUT_END)
    assert process.stdout is not None
    assert len(os.read(process.stdout.fileno(), 10)) > 0
    process.stdout.close()
    err = process.stderr.read().decode() if process.stderr else ""
    assert process.wait(timeout=120) == 1
    assert all(line.startswith("warning: ") for line in err.splitlines())


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("extra", [(), ("--json",)])
def test_a_full_disk(tiny: Path, extra: tuple[str, ...]) -> None:
    with open("/dev/full", "wb") as full:
        process = spawn("generate", tiny, "-p", "Hi", "-n", "5", *extra, stdout=full)
        _, err = finish(process)
    assert process.returncode == 1
    assert err == "error: No space left on device\n"


@posix
def test_stdout_that_is_closed(tiny: Path) -> None:
    command = f'"{sys.executable}" -m scope_cli generate "{tiny}" -p Hi -n 5 >&-'
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert done.stderr == "error: stdout is closed\n"


@posix
@pytest.mark.parametrize("no_color", ["", "1"])
def test_a_terminal_gets_a_status_line(tiny: Path, no_color: str) -> None:
    terminal, side = os.openpty()
    args = ("generate", tiny, "-p", "Hi", "-n", "5")
    process = spawn(*args, stderr=side, env={"NO_COLOR": no_color})
    finish(process)
    line = os.read(terminal, 4096).decode()
    os.close(side)
    os.close(terminal)
    assert "generated 5" in line
    assert "KV 256 KiB" in line
    assert ("\x1b[" in line) == (not no_color)


@posix
def test_a_terminal_as_stdin_is_not_waited_for(tiny: Path) -> None:
    terminal, side = os.openpty()
    process = spawn("generate", tiny, "-n", "5", stdin=side)
    _, err = finish(process)
    os.close(side)
    os.close(terminal)
    assert process.returncode == 2
    assert err.startswith("error: there is no prompt")


def test_a_character_outside_the_vocabulary_does_not_abort(shared_dir: Path) -> None:
    model = shared_dir / "models" / "babyllama-tok105-f32.gguf"
    process = spawn("generate", model, "-p", "Two\nlines", "-n", "5")
    out, err = finish(process)
    assert process.returncode == 2
    assert out == b""
    assert "U+000A" in err
    assert len(err.splitlines()) == 1


def run_python(code: str) -> Any:
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )


@posix
@pytest.mark.parametrize("module", ["typer", "scope_cli.serve_flags", "numpy"])
def test_ctrl_c_while_modules_are_loaded_ends_without_a_word(module: str) -> None:
    code = f"""
import os, signal, sys
class CtrlC:
    def find_spec(self, name, path=None, target=None):
        if name == {module!r}:
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, CtrlC())
sys.argv = ["scope", "inspect", "no-such.gguf"]
from scope_cli.main import main
main()
"""
    done = subprocess.run(
        [sys.executable, "-c", code], stdin=subprocess.DEVNULL, capture_output=True, timeout=120
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, b"", b"")


NATIVE = {"llama_cpp", "scope_cpp.native", "scope_cpp.engine.model", "scope_cpp.engine.context"}


@pytest.mark.parametrize(
    ("args", "heavy"),
    [
        (["--help"], {"numpy", "ctypes", "scope_cpp.engine", *NATIVE}),
        (["generate", "--help"], {"numpy", *NATIVE}),
        (["chat", "--help-all"], {"numpy", *NATIVE}),
    ],
)
def test_help_loads_nothing_native(args: list[str], heavy: set[str]) -> None:
    code = f"""
import sys
from scope_cli.program import app
try:
    app({args!r}, prog_name="scope")
except SystemExit as end:
    assert end.code == 0, end.code
print("loaded:", {heavy!r} & set(sys.modules))
"""
    assert run_python(code).stdout.endswith("loaded: set()\n")
