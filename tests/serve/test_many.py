"""Many clients at once: whose text is whose, who waits, who is gone."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

pytest.importorskip("uvicorn", reason="scope serve needs the extra serve")
openai = pytest.importorskip("openai")

from scope_cpp.engine.settings import Settings  # noqa: E402
from scope_cpp.reference.shipped import model_path  # noqa: E402
from scope_cpp.reference.task import make_samples  # noqa: E402
from tests.conftest import Tiny  # noqa: E402
from tests.serve.service import WAIT, Running, running  # noqa: E402

ENDLESS = 10**6  # tokens
LONG = {"prompt": "the cat", "max_tokens": ENDLESS, "ignore_eos": True, "stream": True}
WHOLE = LONG | {"stream": False}
SETTINGS = Settings(n_threads=1, n_threads_batch=1, budget=300)


def until(holds: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + WAIT
    while not holds():
        assert time.monotonic() < deadline, what
        time.sleep(0.01)


def test_sixteen_clients_get_their_own_answers() -> None:
    """Each asks about facts of its own; the model's answers repeat their keys and values."""
    samples = make_samples("uniform", 16, seed=3, n_questions=3, n_facts=6, n_filler=2)

    def ask(server: Running, i: int) -> str:
        messages = [{"role": "user", "content": samples[i].prompt}]
        with server.client() as client:
            answer = client.chat.completions.create(
                model="reference", messages=messages, max_tokens=54, stream=i % 2 == 0
            )
            if i % 2:
                return str(answer.choices[0].message.content)
            return "".join(chunk.choices[0].delta.content or "" for chunk in answer)

    with running(model_path(), n_parallel=4, cells="4k") as server:
        alone = [ask(server, i) for i in range(16)]
        with ThreadPoolExecutor(16) as pool:
            together = list(pool.map(lambda i: ask(server, i), range(16)))
        assert server.metrics()["scope_cells_used"] == 0
    assert len(set(alone)) == 16
    assert together == alone


@pytest.fixture(scope="module")
def narrow(tiny: Tiny) -> Any:
    """One answer at a time, and two may wait."""
    limits: dict[str, Any] = {"n_parallel": 1, "queue": 2, "n_predict": ENDLESS}
    with running(tiny(), SETTINGS, name="tiny", **limits) as server:
        yield server


def idle(server: Running) -> bool:
    told = server.metrics()
    rows = told["scope_rows_running"] + told["scope_rows_waiting"]
    return rows == told["scope_cells_used"] == 0


def test_clients_that_go_away_free_their_cells(narrow: Running) -> None:
    """One in the middle of a stream, one that waits, one that waits for a whole answer."""
    with narrow.http() as http:
        with http.stream("POST", "/v1/completions", json=LONG) as stream:
            pieces = stream.iter_bytes()
            next(pieces)
            assert narrow.metrics()["scope_cells_used"] > 0
            with narrow.http() as other, pytest.raises(Exception, match="timed out"):
                other.post("/v1/completions", json=WHOLE, timeout=0.3)
            until(lambda: narrow.metrics()["scope_rows_waiting"] == 0, "it still waits")
            assert narrow.metrics()["scope_rows_running"] == 1
        until(lambda: idle(narrow), "cells are still in use")
        with pytest.raises(Exception, match="timed out"):
            http.post("/v1/completions", json=WHOLE, timeout=0.3)
        until(lambda: idle(narrow), "cells are still in use")


def test_more_than_can_wait_are_turned_away(narrow: Running) -> None:
    with narrow.http() as http, http.stream("POST", "/v1/completions", json=LONG) as stream:
        pieces = stream.iter_bytes()
        next(pieces)
        waiting = [narrow.http(), narrow.http()]
        threads = [
            threading.Thread(target=_swallow, args=(one, "/v1/completions", LONG))
            for one in waiting
        ]
        for thread in threads:
            thread.start()
        until(lambda: narrow.metrics()["scope_rows_waiting"] == 2, "nobody waits")
        with narrow.http() as late:
            answer = late.post("/v1/completions", json=LONG)
        assert answer.status_code == 429 and int(answer.headers["retry-after"]) > 0
        assert answer.json()["error"]["code"] == "queue_full"
        for one in waiting:
            one.close()
    until(lambda: idle(narrow), "rows are left")
    for thread in threads:
        thread.join(WAIT)


def _swallow(http: Any, path: str, body: dict[str, Any]) -> None:
    with contextlib.suppress(Exception):  # the connection is closed, as is meant
        http.post(path, json=body)


def test_more_answers_than_there_are_places(narrow: Running) -> None:
    with narrow.http() as http:
        answer = http.post("/v1/completions", json={"prompt": "a", "n": 4})
    assert answer.status_code == 400 and "at most 3" in answer.json()["error"]["message"]


def test_an_answer_that_takes_too_long(tiny: Tiny) -> None:
    limits = {"n_predict": ENDLESS, "timeout": 0.5, "name": "tiny"}
    with running(tiny(), SETTINGS, **limits) as server, server.http() as http:
        answer = http.post("/v1/completions", json=WHOLE)
        assert answer.status_code == 504 and answer.json()["error"]["code"] == "timeout"
        lines = http.post("/v1/completions", json=LONG).text.split("\n\n")
        told = [json.loads(line[6:]) for line in lines if line.startswith("data: {")]
        assert told[0]["choices"][0]["text"] and told[-1]["error"]["code"] == "timeout"
        until(lambda: idle(server), "rows are left")
        with pytest.raises(openai.APIError, match="longer than the server allows"):
            extra = {"ignore_eos": True}
            ask = server.client().completions.create
            list(ask(model="tiny", prompt="a", max_tokens=ENDLESS, stream=True, extra_body=extra))


def test_a_client_that_does_not_read(tiny: Tiny) -> None:
    """Its row ends when its time is up, though nothing can be sent any more."""
    body = json.dumps(LONG).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n"
    limits: dict[str, Any] = {"n_predict": ENDLESS, "timeout": 1.0, "name": "tiny"}
    with running(tiny(), SETTINGS, **limits) as server:
        host, _, port = server.url.removeprefix("http://").rpartition(":")
        with socket.create_connection((host, int(port))) as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.sendall(head.encode() + b"Content-Type: application/json\r\n\r\n" + body)
            until(lambda: server.metrics()["scope_rows_running"] == 1, "it does not run")
            until(lambda: idle(server), "its row is left")


def test_the_end_cuts_what_runs_and_refuses_what_waits(tiny: Tiny) -> None:
    """The last chunk says why, and the thread ends: nothing is left to wait for."""
    limits = {"n_predict": ENDLESS, "n_parallel": 1, "grace": 0.3, "name": "tiny"}
    body = LONG | {"max_tokens": ENDLESS, "stream_options": {"include_usage": True}}
    refused: list[Any] = []
    with running(tiny(), SETTINGS, **limits) as server, server.http() as http:
        with http.stream("POST", "/v1/completions", json=body) as stream:
            lines = stream.iter_lines()
            next(lines)
            other = threading.Thread(
                target=lambda: refused.append(server.http().post("/v1/completions", json=LONG))
            )
            other.start()
            until(lambda: server.metrics()["scope_rows_waiting"] == 1, "nobody waits")
            server.service.stop()
            told = [line[6:] for line in lines if line.startswith("data: ")]
        other.join(WAIT)
        *_, cut, usage, done = told
        assert json.loads(cut)["choices"][0]["finish_reason"] == "length"
        assert json.loads(usage)["usage"]["completion_tokens"] >= len(told) - 3
        assert done == "[DONE]"
        server.thread.join(WAIT)
        assert not server.thread.is_alive()
    assert refused[0].status_code == 503 and refused[0].headers["retry-after"]
    assert refused[0].json()["error"]["code"] == "shutting_down"


def test_answers_finish_within_the_grace(tiny: Tiny) -> None:
    body = LONG | {"max_tokens": 400}
    with running(tiny(), SETTINGS, name="tiny") as server, server.http() as http:
        with http.stream("POST", "/v1/completions", json=body) as stream:
            lines = stream.iter_lines()
            next(lines)
            server.service.stop()
            told = [json.loads(line[6:]) for line in lines if line.startswith("data: {")]
        assert told[-1]["choices"][0]["finish_reason"] == "length"
        server.thread.join(WAIT)
        assert not server.thread.is_alive()


def test_a_prompt_that_comes_back_is_not_read_again(tiny: Tiny) -> None:
    """Its cells rest, within the bound, and give way to who needs them."""
    prompt = "the cat and " * 20
    with running(tiny(), name="tiny", cells="600", prefix_cache="200") as server:
        n_prompt = len(server.model.tokenize(prompt))
        with server.client() as client:
            ask = client.completions.create
            first = ask(model="tiny", prompt=prompt, max_tokens=5)
            assert first.usage.prompt_tokens_details.cached_tokens == 0
            rested = server.metrics()["scope_cells_used"]
            assert n_prompt <= rested <= n_prompt + 5
            again = ask(model="tiny", prompt=prompt, max_tokens=5)
            assert again.choices[0].text == first.choices[0].text
            # the last token is read for its logits
            assert again.usage.prompt_tokens_details.cached_tokens == n_prompt - 1
            for i in range(4):
                ask(model="tiny", prompt=f"{i} {prompt}", max_tokens=5)
                assert server.metrics()["scope_cells_used"] <= 200
            ask(model="tiny", prompt="a", max_tokens=590)
