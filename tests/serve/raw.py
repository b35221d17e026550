"""Requests as no client library sends them."""

from __future__ import annotations

import http.client
import json
import re
import socket
import time
from contextlib import closing
from http.client import HTTPResponse
from typing import Any
from urllib.parse import urlsplit

from tests.serve.service import WAIT, Running

Answer = tuple[int, dict[str, str], bytes]  # status, headers in small letters, body


def connect(server: Running) -> socket.socket:
    """Open a connection."""
    address = urlsplit(server.url)
    assert address.hostname and address.port
    return socket.create_connection((address.hostname, address.port), timeout=WAIT)


def send(
    server: Running,
    method: str,
    path: str,
    body: bytes | None = None,
    headers: dict[str, str] | None = None,
) -> Answer:
    """Send any bytes as a body, as JSON unless the headers say otherwise."""
    with closing(http.client.HTTPConnection(urlsplit(server.url).netloc, timeout=WAIT)) as client:
        kind = {} if body is None else {"Content-Type": "application/json"}
        client.request(method, path, body, kind | (headers or {}))
        return _read(client.getresponse())


def read_answer(client: socket.socket) -> Answer:
    """Read an answer from a connection."""
    response = HTTPResponse(client)
    response.begin()
    return _read(response)


def _read(response: HTTPResponse) -> Answer:
    headers = {name.lower(): value for name, value in response.getheaders()}
    return response.status, headers, response.read()


def refused(answer: Answer, *allowed: int) -> dict[str, Any]:
    """Return the error of an answer that must be one, in OpenAI's form."""
    status, headers, body = answer
    assert status in (allowed or (400,)), body
    assert headers["content-type"].startswith("application/json")
    error = dict(json.loads(body)["error"])
    assert set(error) == {"message", "type", "param", "code"}
    assert error["type"] and 0 < len(error["message"]) <= 500 and "\n" not in error["message"]
    assert "Traceback" not in error["message"]
    return error


def until_idle(server: Running) -> dict[str, float]:
    """Wait until no row waits or runs and return the metrics then; fail after the deadline."""
    deadline = time.monotonic() + WAIT
    while time.monotonic() < deadline:
        text = send(server, "GET", "/metrics")[2].decode()
        told = {name: float(value) for name, value in re.findall(r"^(\w+) (\S+)$", text, re.M)}
        if told["scope_rows_running"] == told["scope_rows_waiting"] == 0:
            return told
        time.sleep(0.02)
    raise AssertionError(f"rows still run after {WAIT} s: {told}")
