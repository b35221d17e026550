"""Hostile requests, drawn at random: whatever comes, an answer or an error in OpenAI's form."""

from __future__ import annotations

import contextlib
import json
import socket
from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("uvicorn", reason="scope serve needs the extra serve")

from hypothesis import HealthCheck, given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from scope_cpp.engine.parallel import ParallelEngine  # noqa: E402
from scope_cpp.engine.parallel.row import Row  # noqa: E402
from scope_cpp.serve import openai_completions, schema  # noqa: E402
from scope_cpp.serve.choice import Choice  # noqa: E402
from tests.conftest import Tiny  # noqa: E402
from tests.serve.raw import Answer, connect, refused, send, until_idle  # noqa: E402
from tests.serve.service import WAIT, Running, running  # noqa: E402

TEMPLATE = "{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}"
CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
TABLES: dict[str, dict[str, Any]] = {
    CHAT: schema.chat(24),
    COMPLETIONS: schema.completions(24),
    "/tokenize": schema.TOKENIZE,
    "/detokenize": schema.DETOKENIZE,
}
BASE: dict[str, dict[str, Any]] = {
    CHAT: {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 3},
    COMPLETIONS: {"prompt": "Hi", "max_tokens": 3},
    "/tokenize": {"content": "Hi"},
    "/detokenize": {"tokens": [5]},
}


@pytest.fixture(scope="module")
def server(tiny: Tiny) -> Iterator[Running]:
    limits: dict[str, Any] = {"n_parallel": 2, "cells": "256", "n_predict": 24, "max_body": 1 << 20}
    with running(tiny(chat_template=TEMPLATE), name="tiny", **limits) as server:
        yield server
        told = until_idle(server)
        assert told["scope_cells_used"] == 0
    assert [line for line in server.said if "Error" in line or "Exception" in line] == []


def right(answer: Answer) -> None:
    """An answer of this server's own, whatever it says."""
    status, headers, body = answer
    kind = headers["content-type"]
    if status != 200:
        refused(answer, *range(400, 416), 429, 500)
    elif kind.startswith("text/event-stream"):
        *events, done = body.removesuffix(b"\n\n").split(b"\n\n")
        assert done == b"data: [DONE]"
        assert all(json.loads(event.removeprefix(b"data: ")) for event in events)
    else:
        assert kind == "application/json"
        json.loads(body)


words = str.split
NASTY = [
    *(None, True, False, 0, -1, 1, 2**31, 2**63, 10**39, 0.5, -0.0, 1e308, 5e-324),
    *("", " ", "\0", "\x7f\x1b[2J", "\ufeff", "\ufdd0", "\ufffe", "\U0010ffff", "</s>", "<s>"),
    *("a" * 5000, "\ufdfd" * 99, [], {}, [[]], [None], {"": 0}, {"\0": "\0"}, {"__proto__": {}}),
    *({"$ref": "#"}, {"type": "text"}),
]
LEAVES = st.one_of(
    st.sampled_from(NASTY),
    st.text(max_size=8),
    st.integers(-(2**70), 2**70),
    st.floats(allow_nan=False, allow_infinity=False),
)
NAMES = st.text(max_size=4)
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=6,
)
KEYWORDS = words(
    """const enum properties items anyOf oneOf allOf required pattern minLength maxLength
minItems maxItems $ref $defs format not"""
)
TYPES = st.sampled_from(["object", "array", "string", "integer", "null"])
SCHEMAS = st.fixed_dictionaries(
    {}, optional={"type": VALUES | TYPES, **dict.fromkeys(KEYWORDS, VALUES)}
)


@st.composite
def requests(draw: st.DrawFn) -> tuple[str, bytes]:
    """A right request in which some fields have nasty values; perhaps not even JSON."""
    path = draw(st.sampled_from(list(BASE)))
    body: dict[str, Any] = dict(BASE[path])
    names = st.sampled_from(sorted(TABLES[path]["properties"])) | st.text(max_size=5)
    body |= draw(st.dictionaries(names, VALUES, min_size=1, max_size=2))
    if path in (CHAT, COMPLETIONS) and draw(st.booleans()):
        form = {"type": "json_schema", "json_schema": {"schema": draw(SCHEMAS)}}
        body = BASE[path] | {"response_format": form}
    data = json.dumps(body, ensure_ascii=draw(st.booleans())).encode("utf-8", "surrogatepass")
    if (
        draw(st.integers(0, 3)) == 0
    ):  # cut off, or with bytes in the middle that do not belong there
        at = draw(st.integers(0, len(data)))
        data = data[:at] + draw(st.binary(max_size=6)) + data[at + draw(st.integers(0, 9)) :]
    return path, data


quick = settings(
    max_examples=200, database=None, derandomize=True, suppress_health_check=list(HealthCheck)
)


@quick
@given(request=requests())
def test_bodies(server: Running, request: tuple[str, bytes]) -> None:
    path, data = request
    right(send(server, "POST", path, data))


METHODS = words("GET POST HEAD PUT DELETE OPTIONS TRACE X get")
TARGETS = words(
    """/ /v1/models /v1/completions /metrics * // /%00 /v1/models/%ff /?q=%zz http://x/
/page/../x"""
)
VERSIONS = ["HTTP/1.1", "HTTP/1.0", "HTTP/2.0", ""]
FIELDS = words(
    """Content-Type Content-Length Transfer-Encoding Expect Upgrade Connection Host Origin
Authorization Content-Encoding X"""
)
CONTENTS = words(
    """0 5 -1 99999999999999999999 chunked 100-continue websocket close localhost
evil.example \xff application/json"""
)
CONTENTS += ["", "gzip, chunked", "application/json; charset=utf-16", "Bearer \xff"]
BODIES = [b"", b"{}", b"5\r\nhello\r\n0\r\n\r\n", b"\0\0\0\0\0", b"\xff" * 9]
LINES = st.tuples(*map(st.sampled_from, (METHODS, [*TARGETS, "/" + "x" * 300], VERSIONS)))


@quick
@given(
    line=LINES,
    names=st.lists(st.tuples(st.sampled_from(FIELDS), st.sampled_from(CONTENTS)), max_size=4),
    body=st.sampled_from(BODIES),
)
def test_heads(
    server: Running, line: tuple[str, str, str], names: list[tuple[str, str]], body: bytes
) -> None:
    """What is sent on a connection before the client stops writing gets JSON, or nothing."""
    head = "\r\n".join([" ".join(line), *(f"{name}: {value}" for name, value in names)])
    with connect(server) as client, contextlib.suppress(ConnectionError):
        client.sendall(head.encode("latin-1") + b"\r\n\r\n" + body)
        client.shutdown(socket.SHUT_WR)
        client.settimeout(WAIT)
        answer = b""
        while piece := client.recv(1 << 16):
            answer += piece
        assert b"Internal Server Error" not in answer
        for told in answer.split(b"HTTP/1.1 ")[1:]:
            status = int(told[:3])
            assert status < 500
            content = told.partition(b"\r\n\r\n")[2]
            if status >= 400 and content:
                assert json.loads(content)["error"]["message"]


class Boom(Exception):
    """What nobody expects."""


@pytest.mark.parametrize("where", ["prepare", "worst_case", "submit", "whole", "first", "later"])
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_an_unexpected_exception_anywhere(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch, where: str, stream: bool
) -> None:
    """It is told in OpenAI's form, named in the log, and the server goes on."""
    calls = 0

    def fail(*_: Any, **__: Any) -> Any:
        nonlocal calls
        calls += 1
        if where == "later" and calls < 3:
            return original(*_, **__)
        raise Boom("\n of a secret")

    place: tuple[Any, str] = {
        "prepare": (openai_completions, "check"),
        "worst_case": (ParallelEngine, "worst_case"),
        "submit": (Row, "__init__"),
        "whole": (openai_completions.TextForm, "choice"),
        "first": (Choice, "take"),
        "later": (Choice, "take"),
    }[where]
    original = getattr(*place)
    body = json.dumps({"prompt": "Hi", "max_tokens": 24, "ignore_eos": True, "stream": stream})
    with running(tiny(), name="tiny", n_predict=24) as server:
        with monkeypatch.context() as patch:
            patch.setattr(*place, fail)
            answer = send(server, "POST", COMPLETIONS, body.encode())
        if answer[0] == 200 and stream:
            *_, last, done = answer[2].removesuffix(b"\n\n").split(b"\n\n")
            assert done == b"data: [DONE]"
            error = json.loads(last.removeprefix(b"data: "))["error"]
        elif where == "later" and answer[0] == 200:  # all of it came with two updates
            return
        else:
            error = refused(answer, 500)
        assert error["type"] == "server_error" and "secret" not in error["message"]
        right(send(server, "POST", COMPLETIONS, body.encode()))
        until_idle(server)
        assert any("Boom: of a secret" in line for line in server.said)
        assert not any("\n" in line for line in server.said)
