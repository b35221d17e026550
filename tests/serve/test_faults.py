"""What clients do wrong: refused in OpenAI's form, and nothing of it stays in the cache."""

from __future__ import annotations

import gzip
import json
import random
import re
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest

from tests.conftest import Tiny

pytest.importorskip("uvicorn", reason="scope serve needs the extra serve")

from tests.serve.raw import connect, read_answer, refused, send, until_idle  # noqa: E402
from tests.serve.service import Running, running  # noqa: E402

CHAT, COMPLETIONS, TOKENIZE = "/v1/chat/completions", "/v1/completions", "/tokenize"
TEMPLATE = "{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}"
MESSAGES = [{"role": "user", "content": "Hello"}]
MOST = 1 << 20
BODY_SECONDS = 1
HEAD = f"POST {CHAT} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
HEAD += "Connection: close\r\n"


@pytest.fixture(scope="module")
def server(tiny: Tiny) -> Iterator[Running]:
    limits: dict[str, Any] = {"n_parallel": 2, "cells": "256", "n_predict": 24}
    limits |= {"max_body": MOST, "body_timeout": BODY_SECONDS}
    with running(tiny(chat_template=TEMPLATE), name="tiny", **limits) as server:
        yield server
        answer = server.client().chat.completions.create(
            model="tiny", messages=MESSAGES, max_tokens=3
        )
        assert answer.usage.completion_tokens == 3
    unexpected = [line for line in server.said if "Error" in line or "Exception" in line]
    assert unexpected == []


@pytest.fixture(autouse=True)
def _nothing_stays(server: Running) -> Iterator[None]:
    """After each test the server runs, and no cell is in use."""
    yield
    told = until_idle(server)
    assert told["scope_cells_used"] == 0
    assert server.thread.is_alive()


NO_JSON = {
    "empty": b"",
    "cut": b'{"messages": [{"role": "user", "content": "x"}',
    "a list": b"[]",
    "a number": b"7",
    "null": b"null",
    "words": b"hello",
    "two": b'{"prompt": "x"}{"prompt": "x"}',
    "quotes": b"{'prompt': 'x'}",
    "a name twice": b'{"prompt": "x", "content": "x", "messages": [], "prompt": "y"}',
    "a name twice, deeper": b'{"prompt": "x", "options": {"beta1": 1, "beta1": 2}}',
    "comma": b'{"prompt": "x",}',
    "not UTF-8": b'{"prompt": "\xff\xfe"}',
    "UTF-16": '{"prompt": "x"}'.encode("utf-16"),
    "half a pair": rb'{"prompt": "\ud800"}',
    "half a pair as a name": rb'{"\udfff": 1}',
    "control": b'{"prompt": "a\x00b"}',
    "NaN": b'{"prompt": "x", "temperature": NaN}',
    "infinity": b'{"prompt": "x", "temperature": -Infinity}',
    "1e999": b'{"prompt": "x", "temperature": 1e999}',
    "5,000 digits": b'{"prompt": "x", "seed": ' + b"9" * 5000 + b"}",
    "deep lists": b'{"prompt": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "deep objects": b'{"a":' * 50_000 + b"1" + b"}" * 50_000,
    "deep and cut": b"[" * 200_000,
}


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS, TOKENIZE])
@pytest.mark.parametrize("body", NO_JSON.values(), ids=NO_JSON)
def test_what_is_no_json(server: Running, path: str, body: bytes) -> None:
    refused(send(server, "POST", path, body))


WRONG: list[dict[str, Any]] = [
    {"max_tokens": -1},
    {"max_tokens": 0},
    {"max_tokens": 2**63},
    {"max_tokens": 10**30},
    {"max_tokens": 1.5},
    {"max_tokens": "8"},
    {"max_tokens": True},
    {"n": 0},
    {"n": 10**9},
    {"seed": -(2**63)},
    {"seed": 2**64},
    {"temperature": -0.1},
    {"temperature": 1e308},
    {"top_p": 2},
    {"top_k": -5},
    {"min_p": -1},
    {"presence_penalty": 1e9},
    {"repeat_penalty": 0},
    {"logit_bias": {"999999999": 1}},
    {"logit_bias": {"-1": 1}},
    {"logit_bias": {"x": 1}},
    {"logit_bias": {"1": 1e9}},
    {"stop": ["a"] * 1000},
    {"stop": [""]},
    {"stop": [1]},
    {"stop": "x" * 10_000},
    {"stream": "yes"},
    {"stream_options": []},
    {"model": "another"},
    {"model": 7},
    {"bogus": 1},
    {"__proto__": {}},
    {"": 1},
    {"x" * 10_000: 1},
    {"tools": [{"type": "function", "function": {"name": "f"}}]},
    {"policy": "magic"},
    {"policy": ["full"]},
    {"budget": "plenty"},
    {"budget": -3},
    {"budget": 2},
    {"budget": 10**12},
    {"options": {"beta9": 1}},
    {"options": {"beta1": -1}},
    {"options": {"beta1": "\n--help"}},
    {"response_format": {"type": "poem"}},
    {"response_format": {"type": "json_schema"}},
    {"response_format": {"type": "json_schema", "json_schema": {"schema": {"$ref": "#/nowhere"}}}},
    {"scope": {"picture": 1}},
    {"scope": {"path": "/etc/passwd"}},
]
WRONG_CHAT: list[dict[str, Any]] = [
    {"messages": []},
    {"messages": None},
    {"messages": "Hello"},
    {"messages": [None]},
    {"messages": [{}]},
    {"messages": [{"role": "user"}]},
    {"messages": [{"role": "wizard", "content": "x"}]},
    {"messages": [{"role": "user", "content": 7}]},
    {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
    {"messages": [{"role": "user", "content": "x ", "extra": 1}]},
    {"messages": [{"role": "user", "content": "word " * 2000}]},
    {"logprobs": 3},
    {"top_logprobs": 5},
    {"logprobs": True, "top_logprobs": 10_000},
]
WRONG_COMPLETIONS: list[dict[str, Any]] = [
    {"prompt": None},
    {"prompt": ""},
    {"prompt": []},
    {"prompt": [[]]},
    {"prompt": [-1]},
    {"prompt": [2**40]},
    {"prompt": [1.5]},
    {"prompt": ["a", 1]},
    {"prompt": ["a"] * 10_000},
    {"prompt": "word " * 2000},
    {"logprobs": -1},
    {"logprobs": 10_000},
    {"best_of": 0},
    {"suffix": "x"},
]


def name(body: dict[str, Any]) -> str:
    return json.dumps(body)[:40]


@pytest.mark.parametrize("stream", [False, True], ids=["", "stream"])
@pytest.mark.parametrize("wrong", [*WRONG, *WRONG_CHAT], ids=name)
def test_wrong_chats(server: Running, wrong: dict[str, Any], stream: bool) -> None:
    body = {"messages": MESSAGES, "stream": stream} | wrong
    refused(send(server, "POST", CHAT, json.dumps(body).encode()), 400, 404)


@pytest.mark.parametrize("wrong", [*WRONG, *WRONG_COMPLETIONS], ids=name)
def test_wrong_completions(server: Running, wrong: dict[str, Any]) -> None:
    body = {"prompt": "Hello"} | wrong
    refused(send(server, "POST", COMPLETIONS, json.dumps(body).encode()), 400, 404)


@pytest.mark.parametrize(
    ("field", "value", "line"),
    [
        ("budget", "plenty", "budget 'plenty' is not understood: give cells"),
        ("budget", "200%", "budget '200%' is more than the full length: give at most 100%"),
        ("top_p", 2, "top_p is 2: give a number within 0 to 1"),
        ("logit_bias", {"999999999": 1}, "logit_bias names token 999999999: the vocabulary has 0"),
        ("prompt", "", "prompt is empty: give a text"),
        ("stop", [""], "stop.0 is empty: give a text"),
    ],
)
def test_the_field_that_is_wrong_is_named(
    server: Running, field: str, value: Any, line: str
) -> None:
    body = {"prompt": "Hello", field: value}
    error = refused(send(server, "POST", COMPLETIONS, json.dumps(body).encode()))
    assert error["message"].startswith(line)
    assert error["param"].startswith(field)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("budget", [20, 90])
def test_a_prompt_beyond_the_budget(server: Running, stream: bool, budget: int) -> None:
    """Told in the words of the interface, with a budget that the request really runs with."""
    path, body = COMPLETIONS, {"prompt": "Hello " * 22, "max_tokens": 9, "stream": stream}
    asked = json.dumps(body | {"budget": budget}).encode()
    error = refused(send(server, "POST", path, asked))
    assert error["code"] == "context_length_exceeded" and error["param"] == "prompt"
    told = re.fullmatch(
        rf"the prompt keeps (\d+) cells, the budget is {budget}: give budget (\d+) or more, such "
        r"as (\d+)(, or a prefill policy that drops part of the prompt \(prefill snapkv\))?",
        error["message"],
    )
    assert told is not None, error["message"]
    n_prompt, least, advised = (int(told[n]) for n in (1, 2, 3))
    assert (least, advised) == (n_prompt + 1, n_prompt + 9)
    for named in (least, advised):
        asked = json.dumps(body | {"budget": named}).encode()
        assert send(server, "POST", path, asked)[0] == 200
    asked = json.dumps(body | {"budget": budget, "prefill": "snapkv"}).encode()
    works = send(server, "POST", path, asked)[0] == 200
    assert works == (told[4] is not None) == (budget == 90)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("policy", ["scope-retrieval", "scope-slide"])
def test_a_message_beyond_the_budget(server: Running, stream: bool, policy: str) -> None:
    """As in a chat, in the words of the interface."""
    message = {"role": "user", "content": "Hello " * 22}
    body = {"messages": [message], "max_tokens": 9, "stream": stream, "policy": policy}
    error = refused(send(server, "POST", CHAT, json.dumps(body | {"budget": 90}).encode()))
    assert error["code"] == "context_length_exceeded" and error["param"] == "messages"
    ways, helps = ("send a shorter message or give a larger budget", {"budget": 200})
    if policy == "scope-slide":
        ways = "send a shorter message, give a larger budget or let old prompts give way"
        ways, helps = f"{ways} (prefill snapkv)", {"prefill": "snapkv"}
    told = r"this turn needs \d+ cells for its prompt and its answer, 90 of 90 can be had: "
    assert re.fullmatch(told + re.escape(ways), error["message"])
    asked = json.dumps(body | {"budget": 90} | helps).encode()
    assert send(server, "POST", CHAT, asked)[0] == 200


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        ({"budget": 300, "ignore_eos": True}, "more --cells (only the server is started with "),
        ({"budget": 60, "policy": "h2o", "granularity": "cell", "prefill": "pyramidkv"}, "prefill"),
        ({"options": {"beta1": 5}}, "which is one of policy "),
    ],
)
def test_no_other_refusal_names_a_flag(server: Running, fields: dict[str, Any], line: str) -> None:
    body = {"prompt": [5] * 250, "max_tokens": 24} | fields
    error = refused(send(server, "POST", COMPLETIONS, json.dumps(body).encode()))
    assert line in error["message"]
    assert re.findall(r"(?<![\w-])--?[a-z]+", error["message"].partition(" (only")[0]) in (
        [], ["--cells"]
    )  # fmt: skip


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v1/nothing", 404),
        ("GET", "/page/../../errors.py", 404),
        ("GET", "/page/%2e%2e/errors.py", 404),
        ("GET", "/page//etc/passwd", 404),
        ("GET", "/v1/models/another", 404),
        ("GET", CHAT, 405),
        ("DELETE", CHAT, 405),
        ("POST", "/v1/models", 405),
    ],
)
def test_wrong_addresses(server: Running, method: str, path: str, status: int) -> None:
    refused(send(server, method, path), status)


@pytest.mark.parametrize(
    "headers",
    [
        {"Content-Type": "text/plain"},
        {"Content-Type": "application/x-www-form-urlencoded"},
        {"Content-Type": "application/json", "Content-Encoding": "gzip"},
    ],
    ids=["text", "form", "gzip"],
)
def test_bodies_that_are_not_sent_as_json(server: Running, headers: dict[str, str]) -> None:
    body = json.dumps({"messages": MESSAGES}).encode()
    if "Content-Encoding" in headers:
        body = gzip.compress(body)
    refused(send(server, "POST", CHAT, body, headers), 400, 415)


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS, TOKENIZE])
def test_a_body_of_ten_megabytes(server: Running, path: str) -> None:
    body = json.dumps({"prompt": "x" * 10_000_000}).encode()
    refused(send(server, "POST", path, body), 413)


def test_a_body_in_pieces_without_end(server: Running) -> None:
    """Chunked, so that its length is not known before."""
    with connect(server) as client:
        client.sendall(f"{HEAD}Transfer-Encoding: chunked\r\n\r\n".encode())
        piece = b"10000\r\n" + b" " * 0x10000 + b"\r\n"
        with suppress(ConnectionError):  # the server need not read on; what it said is there
            for _ in range(2 * MOST // 0x10000):
                client.sendall(piece)
            client.sendall(b"0\r\n\r\n")
        refused(read_answer(client), 413)


def test_a_slow_sender(server: Running) -> None:
    with connect(server) as client:
        client.sendall(head_of(1000) + b'{"messages": [')
        refused(read_answer(client), 408)


def test_a_sender_that_goes_away(server: Running) -> None:
    for sent in (b"", b"POS", head_of(1000)[:40], head_of(1000), head_of(1000) + b'{"mess'):
        with connect(server) as client:
            client.sendall(sent)


@pytest.mark.parametrize(
    "head",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # a TLS client
        b"GET /\xff HTTP/1.1\r\n\r\n",
        b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 20_000 + b"\r\n",
    ],
    ids=["TLS", "path", "length", "version", "headers"],
)
def test_what_is_no_http(server: Running, head: bytes) -> None:
    with connect(server) as client:
        try:
            client.sendall(head)
            client.shutdown(socket.SHUT_WR)
            answer = client.recv(1 << 16)
        except ConnectionError:
            answer = b""
    assert answer == b"" or answer.split()[1].startswith(b"4")


def test_clients_that_go_away_leave_no_cells(server: Running) -> None:
    """At random moments of an answer, politely or not, as many at once as there are places."""
    rng = random.Random(1)
    body = {"messages": MESSAGES, "stream": True, "ignore_eos": True}

    def leave(bytes_read: int, reset: bool) -> None:
        data = json.dumps(body | {"seed": bytes_read}).encode()
        with connect(server) as client:
            if reset:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            client.sendall(head_of(len(data)) + data)
            while bytes_read > 0 and (piece := client.recv(min(bytes_read, 512))):
                bytes_read -= len(piece)

    for _ in range(5):
        arguments = [(rng.randrange(0, 5000), rng.random() < 0.5) for _ in range(4)]
        threads = [threading.Thread(target=leave, args=pair) for pair in arguments]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()


def test_the_description_holds(server: Running) -> None:
    """Requests made from the description of the interface, right ones and wrong ones."""
    schemathesis = pytest.importorskip("schemathesis")
    from hypothesis import HealthCheck, given, settings
    from schemathesis.generation import GenerationMode
    from schemathesis.specs.openapi.checks import positive_data_acceptance

    described = schemathesis.openapi.from_url(f"{server.url}/openapi.json")
    quick = settings(
        max_examples=12,
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    operations = [found.ok() for found in described.get_all_operations()]
    assert {CHAT, COMPLETIONS, TOKENIZE} <= {operation.path for operation in operations}
    for operation in operations:
        if operation.path in (CHAT, COMPLETIONS):
            asked = {"prompt": "a"} if operation.path == COMPLETIONS else {"messages": MESSAGES}
            operation.Case(body=asked | {"stream": True}).call_and_validate(timeout=30)
        # nothing can be wrong with what takes no body
        for mode in GenerationMode if operation.body else (GenerationMode.POSITIVE,):

            @quick
            @given(case=operation.as_strategy(generation_mode=mode))
            def hold(case: Any) -> None:
                # a description cannot say that a prompt is too long, or that fields exclude others
                case.call_and_validate(timeout=30, excluded_checks=[positive_data_acceptance])

            hold()


def head_of(length: int) -> bytes:
    return f"{HEAD}Content-Length: {length}\r\n\r\n".encode()
