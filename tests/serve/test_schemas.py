"""JSON schemas of requests: compiled apart, refused by name, never a fault of the server's."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

pytest.importorskip("uvicorn", reason="scope serve needs the extra serve")

from scope_cpp.engine.schema.matcher import CompiledSchema  # noqa: E402
from scope_cpp.reference.shipped import model_path  # noqa: E402
from scope_cpp.serve import schemas  # noqa: E402
from tests.serve.service import WAIT, Running, running  # noqa: E402

HELLO = {"messages": [{"role": "user", "content": "Facts: ab=3 cd=4 Questions: Q1 ab cd"}]}


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    with running(model_path(), n_predict=200, n_parallel=3, timeout=WAIT) as server:
        yield server


def ask(server: Running, schema: Any, **fields: Any) -> Any:
    form = {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}
    with server.http() as http:
        return http.post("/v1/chat/completions", json=HELLO | fields | {"response_format": form})


def content(answer: Any, i: int = 0) -> Any:
    assert answer.status_code == 200
    return json.loads(answer.json()["choices"][i]["message"]["content"])


@pytest.mark.parametrize("value", ["\0", "\x1f\x7f", 'C:\\temp\\"new"', "😀\n\t", [{"a": None}]])
def test_constants_are_answered(server: Running, value: Any) -> None:
    assert content(ask(server, {"const": value})) == value


def test_a_refusal_names_the_place(server: Running) -> None:
    schema = {"type": "object", "properties": {"a/b": {"type": "array", "uniqueItems": True}}}
    answer = ask(server, schema)
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert error["param"] == "response_format" and error["code"] == "invalid_json_schema"
    assert "#/properties/a~1b/uniqueItems: this cannot be enforced" in error["message"]


BOMBS: dict[str, Any] = {
    "properties": {"type": "object", "properties": {f"p{i}": {} for i in range(5000)}},
    "alternatives": {"anyOf": [{"required": [f"x{i}"]} for i in range(700)]},
    "enum": {"enum": [f"value {i}" for i in range(25_000)]},
    "items": {"type": "array", "minItems": 10**9, "items": {"type": "array", "minItems": 10**9}},
    "length": {"type": "string", "minLength": 10**9, "maxLength": 10**9},
    "repetition": {"type": "string", "pattern": "^((a{1,9}){1,9}){100000}$"},
    "ambiguity": {"type": "string", "pattern": "^(a|a|aa)*(.*b){50}.{500}$"},
    "combinations": {
        "allOf": [{"anyOf": [{"required": [f"a{i}"]}, {"required": [f"b{i}"]}]} for i in range(40)],
        "type": "object",
    },
    "loop": {"$defs": {"a": {"anyOf": [{"$ref": "#/$defs/a"}]}}, "$ref": "#/$defs/a"},
    "endless": {"type": "object", "properties": {"n": {"$ref": "#"}}, "required": ["n"]},
    "doubling": {
        "$defs": {
            **{f"d{i}": {"allOf": [{"$ref": f"#/$defs/d{i + 1}"}] * 2} for i in range(40)},
            "d40": {"type": "null"},
        },
        "$ref": "#/$defs/d0",
    },
    "remainders": {"anyOf": [{"type": "integer", "multipleOf": 100_003 + i} for i in range(50)]},
}


@pytest.mark.parametrize("kind", BOMBS)
def test_what_would_take_long_is_answered_or_refused(server: Running, kind: str) -> None:
    answer = ask(server, BOMBS[kind], max_tokens=3)
    assert answer.status_code in (200, 400)
    if answer.status_code == 200:
        assert answer.json()["choices"][0]["finish_reason"] in ("length", "stop")
    else:
        assert "JSON schema" in answer.json()["error"]["message"]


def test_a_schema_is_compiled_once_for_all_answers(
    server: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []

    def compiled(*args: Any) -> CompiledSchema:
        made.append(args)
        return CompiledSchema(*args)

    monkeypatch.setattr(schemas, "CompiledSchema", compiled)
    answer = ask(server, {"enum": ["a", "b"]}, n=3, temperature=1, seed=1)
    assert {content(answer, i) for i in range(3)} <= {"a", "b"}
    assert len(made) == 1


@pytest.fixture
def stuck(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """While this event is not set, schemas are being compiled."""
    go_on = threading.Event()

    def compiled(*args: Any) -> CompiledSchema:
        assert go_on.wait(WAIT)
        return CompiledSchema(*args)

    monkeypatch.setattr(schemas, "CompiledSchema", compiled)
    yield go_on
    go_on.set()


def test_others_are_answered_while_a_schema_is_compiled(
    server: Running, stuck: threading.Event
) -> None:
    with ThreadPoolExecutor() as pool, server.http() as http:
        waiting = pool.submit(ask, server, {"const": 7})
        for _ in range(3):
            answer = http.post("/v1/chat/completions", json=HELLO | {"max_tokens": 5})
            assert answer.status_code == 200
        assert not waiting.done()
        stuck.set()
        assert content(waiting.result()) == 7


def test_compiling_ends_with_the_deadline(stuck: threading.Event) -> None:
    with running(model_path(), timeout=0.5) as server:
        assert ask(server, {"const": 7}).status_code == 504
        stuck.set()
