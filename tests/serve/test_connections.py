"""Connections that are no good ones, in bytes."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

pytest.importorskip("uvicorn", reason="scope serve needs the extra serve")

from tests.conftest import Tiny  # noqa: E402
from tests.serve.service import WAIT, Running, running  # noqa: E402

MOST = 4


@pytest.fixture(scope="module")
def server(tiny: Tiny) -> Iterator[Running]:
    with running(tiny(), name="tiny", body_timeout=0.4, max_connections=MOST) as server:
        yield server


@contextmanager
def connection(server: Running) -> Iterator[socket.socket]:
    host, _, port = server.url.removeprefix("http://").rpartition(":")
    with socket.create_connection((host, int(port)), timeout=WAIT) as client:
        yield client


def refused(client: socket.socket) -> tuple[int, str]:
    """Status and code of the error that the server sends before it closes the connection."""
    answer = b""
    while piece := client.recv(1 << 16):
        answer += piece
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"application/json" in head
    return int(head.split()[1]), json.loads(body)["error"]["code"]


@pytest.mark.parametrize("sent", [b"", b"GET / HTT", b"GET / HTTP/1.1\r\nHost: localhost\r\n"])
def test_a_head_that_does_not_end(server: Running, sent: bytes) -> None:
    with connection(server) as client:
        client.sendall(sent)
        assert refused(client) == (408, "head_timeout")


def test_a_second_head_that_does_not_end(server: Running) -> None:
    with connection(server) as client:
        request = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"
        client.sendall(request)
        assert client.recv(1 << 16).startswith(b"HTTP/1.1 200")
        client.sendall(request[:20])
        assert refused(client) == (408, "head_timeout")


def test_a_body_that_does_not_end(server: Running) -> None:
    head = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    with connection(server) as client:
        client.sendall(head + b'Content-Length: 100\r\n\r\n{"prompt')
        assert refused(client) == (408, "body_timeout")


def test_what_is_no_http(server: Running) -> None:
    with connection(server) as client:
        client.sendall(b"\x16\x03\x01 hello\r\n\r\n")
        assert refused(client) == (400, "invalid_http")


def test_one_connection_too_many(server: Running) -> None:
    with ExitStack() as opened:
        for _ in range(MOST):
            client = opened.enter_context(connection(server))
            client.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert client.recv(1 << 16).startswith(b"HTTP/1.1 200")
        with connection(server) as late:
            assert refused(late) == (503, "overloaded")


def test_requests_one_after_the_other_on_one_connection(server: Running) -> None:
    """A body that is refused unread is passed over."""
    with server.http() as http:
        for _ in range(3):
            large = http.post("/tokenize", json={"content": "x" * 5_000_000})
            assert large.status_code == 413
            assert http.post("/tokenize", json={"content": "the"}).status_code == 200
