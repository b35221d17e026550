"""What ``scope serve`` refuses before it listens: one line, with the remedy."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

pytest.importorskip("uvicorn", reason="scope serve needs the extra serve")

from tests.reference.refused import write_refused  # noqa: E402

from .conftest import Run, assert_refused  # noqa: E402


@pytest.mark.parametrize(
    ("flags", "phrase"),
    [
        (("--host", "0.0.0.0"), "--insecure-no-key"),
        (("--host", "no such host"), "--host no such host"),
        (("--api-key", ""), "API key is empty"),
        (("--api-key", "a,,b"), "API key is empty"),
        (("--api-key-file", "/no/such/file"), "--api-key-file /no/such/file"),
        (("--cells", "50%"), "--cells '50%' can't be given"),
        (("--cells", "many"), "--cells 'many' is not understood"),
        (("--cells", "100", "--prefix-cache", "200"), "--prefix-cache 200"),
        (("--max-body", "50%"), "--max-body '50%' is no size"),
        (("--timeout", "0"), "--timeout 0"),
        (("--grace", "-1"), "--grace -1"),
        (("-np", "0"), "-np"),
        (("--policy", "magic"), "magic"),
        (("--temp", "nan"), "temp"),
        (("--chat-template", "{{ messages[1].role }"), "the chat template failed (line 1)"),
        (("--chat-template", "{{ messages[0].role }}"), "leaves out the last user message"),
    ],
)
def test_wrong_flags(run: Run, tiny: Path, flags: tuple[str, ...], phrase: str) -> None:
    assert_refused(run("serve", tiny, "--port", 0, *flags), 2, phrase)


def test_a_port_that_is_taken(run: Run, tiny: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert_refused(run("serve", tiny, "--port", port), 1, "give another --port")


def test_without_the_extra(run: Run, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scope_cpp.serve.find_spec", lambda name: None)
    assert_refused(run("serve", tiny), 1, "pip install 'scope-cpp[serve]'")
    assert_refused(run("serve", tiny, "--timeout", 0), 2, "--timeout 0")  # flags are checked first


@pytest.mark.parametrize("flags", [("--budget", "512"), ("--policy", "h2o")])
def test_a_model_without_cells_to_choose(run: Run, tmp_path: Path, flags: tuple[str, ...]) -> None:
    path = write_refused("mamba", tmp_path / "mamba.gguf")
    refused = run("serve", path, "--port", 0, *flags)
    assert_refused(refused, 2, "can't be run with a bounded cache")
