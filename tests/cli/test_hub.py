"""``-hf`` and ``--offline`` of the commands, against a stand-in of the hub."""

from __future__ import annotations

import json
import os
import signal
import struct
import sys
from importlib import import_module
from pathlib import Path

import pytest

from tests.hub_stand_in import Hub

from .conftest import Run, assert_refused, spawn

NAME = "tiny-Q8_0.gguf"
SHORT = ("-p", "Hello", "-n", "5", "--temp", "0")


@pytest.fixture
def server(hub_server: Hub, tiny: Path) -> Hub:
    hub_server.repos["me/tiny"] = {"README.md": b"hello", NAME: tiny.read_bytes()}
    return hub_server


def test_a_model_of_the_hub_is_one_like_any_other(run: Run, server: Hub, tiny: Path) -> None:
    local = run("generate", tiny, *SHORT)
    got = run("generate", "-hf", "me/tiny:q8_0", *SHORT)
    assert got.exit_code == 0
    assert got.stdout == local.stdout
    size = tiny.stat().st_size / 2**20
    assert got.stderr.splitlines()[0] == f"downloading {NAME} ({size:.1f} MiB) of me/tiny"
    again = run("generate", "--hf-repo", "me/tiny", "--hf-file", NAME, "--offline", *SHORT)
    assert again.stdout == local.stdout
    told = json.loads(run("inspect", "-hf", "me/tiny", "--json").stdout)
    assert told["path"].endswith(f"/{NAME}")
    assert server.gets(NAME) == [""]


def test_variables_and_what_wins_over_them(
    run: Run, server: Hub, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SCOPE_HF_REPO", "me/tiny")
    monkeypatch.setenv("SCOPE_HF_FILE", NAME)
    assert run("inspect").exit_code == 0
    monkeypatch.setenv("SCOPE_HF_FILE", "nope.gguf")
    assert_refused(run("inspect"), 2, "no file nope.gguf")
    server.asked.clear()
    assert run("inspect", tiny).exit_code == 0
    assert run("inspect", "-m", tiny).exit_code == 0
    assert server.asked == []
    monkeypatch.setenv("SCOPE_MODEL", "missing.gguf")
    assert_refused(run("inspect"), 2, "two models, missing.gguf and me/tiny")
    assert run("inspect", "-hf", "me/tiny", "-hff", NAME).exit_code == 0
    monkeypatch.setenv("SCOPE_OFFLINE", "1")
    assert_refused(run("inspect", "-hf", "me/other"), 2, "me/other is not in the cache")


@pytest.mark.parametrize(
    ("args", "phrase"),
    [
        (["model.gguf", "-hf", "me/tiny"], "two models, model.gguf and me/tiny"),
        (["-m", "model.gguf", "-hf", "me/tiny"], "two models, model.gguf and me/tiny"),
        (["model.gguf", "-hff", NAME], "give that with -hf"),
        (["-hf", "tiny"], "write it as user/repo"),
        (["-hf", "me/tiny:Q9"], "has no Q9: valid are Q8_0"),
        (["-hf", "me/tiny", "--offline"], "not in the cache"),
        (["-hfx", "me/tiny"], "has no option -hfx: did you mean -hf"),
    ],
)
def test_wrong_requests(run: Run, server: Hub, args: list[str], phrase: str) -> None:
    assert_refused(run("inspect", *args), 2, phrase)


def test_no_network_is_a_failure_of_the_run(run: Run, server: Hub) -> None:
    server.status = 500
    assert_refused(run("inspect", "-hf", "me/tiny"), 1, "answers 500")


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
def test_ctrl_c_during_a_download(run: Run, server: Hub, tiny: Path) -> None:
    server.hold = 1000
    process = spawn("inspect", "-hf", "me/tiny")
    assert server.held.wait(120)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 130
    assert out == b""
    assert b"Traceback" not in err
    assert_refused(run("inspect", "-hf", "me/tiny", "--offline"), 2, "not in the cache")
    server.hold = 0
    assert run("inspect", "-hf", "me/tiny").exit_code == 0


@pytest.mark.skipif(os.name != "posix", reason="terminals of POSIX")
def test_a_progress_bar_on_a_terminal_only(run: Run, server: Hub) -> None:
    process = spawn("inspect", "-hf", "me/tiny")
    lines = process.communicate(timeout=120)[1].decode().splitlines()
    assert [line.partition(" ")[0] for line in lines] == ["taking", "downloading"]
    server.repos["me/tiny"][NAME] += b"\0" * 32
    fcntl, termios = import_module("fcntl"), import_module("termios")
    terminal, side = os.openpty()
    fcntl.ioctl(side, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    process = spawn("inspect", "-hf", "me/tiny", stderr=side)
    process.communicate(timeout=120)
    shown = os.read(terminal, 1 << 16).decode()
    os.close(side)
    os.close(terminal)
    assert process.returncode == 0
    assert "100%|" in shown


def test_without_the_library(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    assert_refused(run("inspect", "-hf", "me/tiny"), 2, "pip install 'scope-cpp[hub]'")
