"""The end of a server: whom a signal finds doing what, and what each of them is told."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest

pytest.importorskip("uvicorn", reason="scope serve needs the extra serve")

from scope_cpp.engine.context import Context  # noqa: E402
from scope_cpp.engine.model import Model  # noqa: E402
from scope_cpp.engine.settings import Settings  # noqa: E402
from tests.conftest import Tiny  # noqa: E402
from tests.serve.raw import Answer, connect, read_answer, refused, send  # noqa: E402
from tests.serve.service import WAIT, Running, running  # noqa: E402
from tests.serve.test_many import ENDLESS, LONG, WHOLE, until  # noqa: E402

COMPLETIONS = "/v1/completions"
SETTINGS = Settings(n_threads=1, n_threads_batch=1, budget=300)
LIMITS: dict[str, Any] = {"n_predict": ENDLESS, "n_parallel": 1, "name": "tiny"}


class Stuck:
    """Steps of the engine that end when they are aborted, and else with the test only."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.begun, self.released = threading.Event(), threading.Event()
        decode = Context.decode_rows

        def stuck(context: Context, rows: Any) -> None:
            self.begun.set()
            until(lambda: bool(context._aborted[0]) or self.released.is_set(), "not aborted")
            decode(context, rows)

        monkeypatch.setattr(Context, "decode_rows", stuck)


@contextmanager
def asking(server: Running, *bodies: dict[str, Any]) -> Iterator[list[Future[Answer]]]:
    """Clients that wait for their answers while the block lasts."""
    with ThreadPoolExecutor(len(bodies)) as pool:
        yield [
            pool.submit(send, server, "POST", COMPLETIONS, json.dumps(body).encode())
            for body in bodies
        ]


def ended(server: Running) -> None:
    server.thread.join(WAIT)
    assert not server.thread.is_alive()
    assert [line for line in server.said if "Error" in line] == []


@pytest.mark.parametrize("body", [LONG, WHOLE], ids=["stream", "whole"])
@pytest.mark.parametrize("twice", [False, True], ids=["after the grace", "second signal"])
def test_a_prompt_that_is_read_is_cut_in_the_middle_of_a_step(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch, body: dict[str, Any], twice: bool
) -> None:
    stuck = Stuck(monkeypatch)
    grace = 1000 if twice else 0.2
    with running(tiny(), SETTINGS, grace=grace, **LIMITS) as server, asking(server, body) as (one,):
        assert stuck.begun.wait(WAIT)
        server.service.stop()
        if twice:
            assert not one.done()
            server.service.stop()
        answer = one.result(WAIT)
        ended(server)
    assert refused(answer, 503)["code"] == "shutting_down"
    assert answer[1]["retry-after"]


def test_who_waits_is_told_at_once_though_a_step_runs(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    stuck = Stuck(monkeypatch)
    with running(tiny(), SETTINGS, grace=1000, **LIMITS) as server:
        with asking(server, LONG, WHOLE, LONG) as clients:
            assert stuck.begun.wait(WAIT)
            until(lambda: len(server.service._worker._tickets) == 3, "not all have asked")
            server.service.stop()
            until(lambda: sum(one.done() for one in clients) == 2, "who waits is not told")
            server.service.stop()
            for one in clients:
                assert refused(one.result(WAIT), 503)["code"] == "shutting_down"
        ended(server)


def test_a_stream_of_which_one_answer_waits_ends_with_an_error(tiny: Tiny) -> None:
    with running(tiny(), SETTINGS, grace=0.2, **LIMITS) as server, server.http() as http:
        with http.stream("POST", COMPLETIONS, json=LONG | {"n": 2}) as stream:
            lines = stream.iter_lines()
            next(lines)
            server.service.stop()
            *_, last, done = [line[6:] for line in lines if line.startswith("data: ")]
        ended(server)
        server.service._cut()  # its timer may come after the end, and so may a signal
        server.service._drain(0)
    assert json.loads(last)["error"]["code"] == "shutting_down"
    assert done == "[DONE]"


def test_a_body_that_is_on_its_way_is_not_waited_for(tiny: Tiny) -> None:
    head = "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    with running(tiny(), SETTINGS, grace=1000, **LIMITS) as server, connect(server) as client:
        client.sendall(f'{head}Content-Length: 100\r\n\r\n{{"prompt'.encode())
        until(lambda: bool(server.service._http.server_state.tasks), "the request has not begun")
        server.service.stop()
        assert refused(read_answer(client), 503)["code"] == "shutting_down"
        ended(server)


@pytest.mark.parametrize("path", [COMPLETIONS, "/tokenize"])
def test_a_text_that_is_tokenized_is_not_waited_for(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    begun, released = threading.Event(), threading.Event()
    tokenize = Model.tokenize

    def stuck(*args: Any, **fields: Any) -> list[int]:
        begun.set()
        assert released.wait(WAIT)
        return tokenize(*args, **fields)

    with running(tiny(), SETTINGS, grace=1000, **LIMITS) as server:
        monkeypatch.setattr(Model, "tokenize", stuck)
        body = json.dumps({"prompt" if path == COMPLETIONS else "content": "x"}).encode()
        with ThreadPoolExecutor(1) as pool:
            client = pool.submit(send, server, "POST", path, body)
            assert begun.wait(WAIT)
            server.service.stop()
            assert refused(client.result(WAIT), 503)["code"] == "shutting_down"
        ended(server)
        assert server.service.busy
        released.set()
        server.service.settle()
        assert not server.service.busy


def test_a_connection_that_idles_is_closed(tiny: Tiny) -> None:
    with running(tiny(), SETTINGS, grace=1000, **LIMITS) as server, connect(server) as client:
        client.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert read_answer(client)[0] == 200
        server.service.stop()
        assert client.recv(1 << 16) == b""
        ended(server)


def test_a_client_that_does_not_read_is_hung_up_on(tiny: Tiny) -> None:
    body = json.dumps(LONG | {"logprobs": 5}).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n"
    with running(tiny(), SETTINGS, grace=0, **LIMITS) as server:
        server.service._listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        with connect(server) as client:
            client.sendall(head.encode() + b"Content-Type: application/json\r\n\r\n" + body)
            until(lambda: any(map(_is_full, _connections(server))), "it can still be written to")
            server.service.stop()
            ended(server)


def _connections(server: Running) -> list[Any]:
    return list(server.service._http.server_state.connections)


def _is_full(connection: Any) -> bool:
    return bool(connection.flow is not None and connection.flow.write_paused)
