"""``scope serve`` as a process: what it says, and how it ends."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("uvicorn", reason="scope serve needs the extra serve")
httpx = pytest.importorskip("httpx")

from tests.cli.conftest import spawn  # noqa: E402
from tests.conftest import Tiny  # noqa: E402

WAIT = 60.0
ENDLESS = {"prompt": "a secret of mine", "stream": True, "ignore_eos": True, "max_tokens": 10**6}
FLAGS = ("--port", 0, "--json", "-t", 1, "-np", 2, "--cells", "1k", "--budget", 200, "-n", 10**6)


def started(
    path: Path, *flags: object, env: dict[str, str] | None = None
) -> tuple[subprocess.Popen[bytes], dict[str, Any]]:
    """A server, and what it says of itself once it listens."""
    process = spawn("serve", path, *FLAGS, *flags, env={"OMP_NUM_THREADS": "1"} | (env or {}))
    assert process.stdout is not None
    return process, json.loads(process.stdout.readline())


def until_it_takes_no_connection(url: str) -> None:
    """A connection that is made while it stops listening may be closed without an answer."""
    end = time.monotonic() + WAIT
    while time.monotonic() < end:
        try:
            httpx.get(url + "/health", timeout=WAIT)
        except httpx.ConnectError:
            return
        except httpx.TransportError:
            continue
    raise AssertionError("it still takes connections")


def test_a_template_of_the_file_that_fails_is_told_at_the_start(tiny: Tiny) -> None:
    process, facts = started(tiny(chat_template="{% for %}"))
    hi = [{"role": "user", "content": "Hi"}]
    refused = httpx.post(facts["url"] + "/v1/chat/completions", json={"messages": hi}, timeout=WAIT)
    assert refused.status_code == 500 and "chat template failed" in refused.text
    assert "template_error" in refused.text
    body = {"prompt": "Hi", "max_tokens": 1}
    answer = httpx.post(facts["url"] + "/v1/completions", json=body, timeout=WAIT)
    assert answer.status_code == 200
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=WAIT)
    first = err.decode().splitlines()[0]
    assert "warning: requests with messages will fail: " in first
    assert "the chat template failed (line 1)" in first


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_ends_in_order(tiny: Tiny, number: signal.Signals) -> None:
    process, facts = started(tiny(), "--grace", 0.2, "--alias", "small")
    assert facts["model"] == "small" and facts["parallel"] == 2 and facts["cells"] == 1024
    with httpx.stream("POST", facts["url"] + "/v1/completions", json=ENDLESS, timeout=WAIT) as it:
        lines = it.iter_lines()
        next(lines)
        process.send_signal(number)
        *_, last, done = [line[6:] for line in lines if line.startswith("data: ")]
    assert json.loads(last)["choices"][0]["finish_reason"] == "length"
    assert done == "[DONE]"
    out, err = process.communicate(timeout=WAIT)
    assert process.returncode == 0
    assert out == b""
    assert b"Traceback" not in err and facts["url"].encode() in err
    assert b"secret" not in err


def test_a_second_signal_does_not_wait(tiny: Tiny) -> None:
    process, facts = started(tiny(), "--grace", 1000)
    with httpx.stream("POST", facts["url"] + "/v1/completions", json=ENDLESS, timeout=WAIT) as it:
        lines = it.iter_lines()
        next(lines)
        process.send_signal(signal.SIGTERM)
        until_it_takes_no_connection(facts["url"])
        process.send_signal(signal.SIGTERM)
        assert list(lines)[-2] == "data: [DONE]"
    assert process.wait(WAIT) == 0
    process.communicate()


def test_prompts_are_printed_where_that_is_asked_for(tiny: Tiny) -> None:
    process, facts = started(tiny(), "--log-prompts")
    body = {"prompt": "a secret of mine", "max_tokens": 2}
    assert httpx.post(facts["url"] + "/v1/completions", json=body).status_code == 200
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=WAIT)
    assert b"a secret of mine" in err


def test_keys_come_from_a_file_and_a_variable(tiny: Tiny, tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("one\ntwo\n")
    env = {"SCOPE_API_KEY": "three"}
    process, facts = started(tiny(), "--api-key-file", file, "--host", "0.0.0.0", env=env)
    port = facts["url"].rpartition(":")[2]
    url = f"http://127.0.0.1:{port}/v1/models"
    statuses = [
        httpx.get(url, headers={"Authorization": f"Bearer {key}"}).status_code
        for key in ("one", "two", "three", "four")
    ]
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=WAIT)
    assert statuses == [200, 200, 200, 401]
    assert process.returncode == 0 and b"two" not in err + out
