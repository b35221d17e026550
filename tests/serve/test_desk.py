"""Where long requests are read: apart from all others."""

from __future__ import annotations

import asyncio
import json
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

pytest.importorskip("uvicorn", reason="scope serve needs the extra serve")

from scope_cpp.engine.model import Model  # noqa: E402
from scope_cpp.serve import schema  # noqa: E402
from scope_cpp.serve.desk import LONG, Desk  # noqa: E402
from tests.conftest import Tiny  # noqa: E402
from tests.serve.raw import refused, send  # noqa: E402
from tests.serve.service import WAIT, running  # noqa: E402


def test_short_work_does_not_wait_for_long_work() -> None:
    async def run() -> None:
        desk, released = Desk(), threading.Event()
        long = [asyncio.ensure_future(desk.run(LONG + 1, released.wait, WAIT)) for _ in range(5)]
        for n in range(20):
            assert await desk.run(LONG, lambda n=n: n) == n
        assert desk.busy and not any(one.done() for one in long)
        released.set()
        assert all(await asyncio.gather(*long))
        desk.settle()
        assert not desk.busy
        desk.close()

    asyncio.run(asyncio.wait_for(run(), WAIT))


def test_what_waits_when_nobody_does_is_not_begun() -> None:
    async def run() -> None:
        desk, released, begun = Desk(), threading.Event(), threading.Event()
        begun_by: list[str] = []

        def first() -> None:
            begun.set()
            released.wait(WAIT)

        one = asyncio.ensure_future(desk.run(LONG + 1, first))
        two = asyncio.ensure_future(desk.run(LONG + 1, begun_by.append, "cancelled"))
        three = asyncio.ensure_future(desk.run(LONG + 1, begun_by.append, "closed"))
        await asyncio.to_thread(begun.wait, WAIT)
        two.cancel()
        await asyncio.sleep(0)
        desk.close()
        released.set()
        await one
        assert (await asyncio.gather(two, three, return_exceptions=True))[0] is not None
        desk.settle()
        assert begun_by == []

    asyncio.run(asyncio.wait_for(run(), WAIT))


def test_an_error_comes_back_and_leaves_nothing_busy() -> None:
    async def run() -> None:
        desk = Desk()
        with pytest.raises(ZeroDivisionError):
            await desk.run(1, lambda: 1 / 0)
        desk.settle()
        desk.close()

    asyncio.run(asyncio.wait_for(run(), WAIT))


LARGE = "the cat " * (LONG // 8)
THINNED = {"prefill": "snapkv", "budget": 300}
MESSAGES = [{"role": "user", "content": LARGE}]
CALLS: dict[str, tuple[str, dict[str, Any]]] = {
    "tokenize": ("/tokenize", {"content": LARGE}),
    "completions": ("/v1/completions", {"prompt": LARGE} | THINNED),
    "chat": ("/v1/chat/completions", {"messages": MESSAGES} | THINNED),
}
TEMPLATE = "{% for m in messages %}{{ m.content }}{% endfor %}"


@pytest.mark.parametrize("name", CALLS)
def test_others_are_answered_while_a_large_text_is_tokenized(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """The tokenizer stands still on the large text until everybody else has been served."""
    begun, released = threading.Event(), threading.Event()
    tokenize = Model.tokenize

    def slow(model: Model, text: str, **fields: Any) -> list[int]:
        if len(text) >= len(LARGE):
            begun.set()
            assert released.wait(WAIT)
            text = "the"
        return tokenize(model, text, **fields)

    path, body = CALLS[name]
    with running(tiny(chat_template=TEMPLATE), name="tiny", cells="1k", n_predict=4) as server:
        monkeypatch.setattr(Model, "tokenize", slow)
        with ThreadPoolExecutor(1) as pool:
            large = pool.submit(send, server, "POST", path, json.dumps(body).encode())
            try:
                assert begun.wait(WAIT)
                with server.http() as http:
                    assert http.get("/health").status_code == 200
                    assert http.post("/tokenize", json={"content": "the"}).status_code == 200
                    for stream in (False, True):
                        small = {"prompt": "the", "stream": stream}
                        assert http.post("/v1/completions", json=small).status_code == 200
                assert not large.done()
            finally:
                released.set()
            assert large.result(WAIT)[0] == 200


def test_texts_and_lists_of_tokens_have_limits_that_are_named(tiny: Tiny) -> None:
    with running(tiny(), name="tiny") as server:
        text = "a" * (schema.MOST_CHARACTERS + 1)
        answer = send(server, "POST", "/tokenize", json.dumps({"content": text}).encode())
        error = refused(answer)
        assert error["param"] == "content"
        assert error["message"] == "content is too long: at most 1048576 characters"
        tokens = [5] * (schema.MOST_TOKENS + 1)
        many = json.dumps({"tokens": tokens}).encode()
        error = refused(send(server, "POST", "/detokenize", many))
        assert error["message"] == "tokens has 131073 items: give at most 131072"
        body = json.dumps({"tokens": tokens[1:]}).encode()
        status, _, content = send(server, "POST", "/detokenize", body)
        assert status == 200
        one = json.loads(send(server, "POST", "/detokenize", b'{"tokens": [5]}')[2])["content"]
        assert json.loads(content)["content"] == one * schema.MOST_TOKENS


@pytest.mark.parametrize("n", [0, 1, 4095, 4096, 4097, 10_000])
def test_long_lists_are_written_as_short_ones(tiny: Tiny, n: int) -> None:
    """They are written in parts."""
    with running(tiny(), name="tiny") as server, server.http() as http:
        text = ("ab" * n)[:n]
        expected = server.model.tokenize(text, add_special=False)
        assert http.post("/tokenize", json={"content": text}).json() == {"tokens": expected}
        pieces = http.post("/tokenize", json={"content": text, "with_pieces": True}).json()
        assert [piece["id"] for piece in pieces["tokens"]] == expected
        assert "".join(piece["piece"] for piece in pieces["tokens"]) == text


def test_a_text_full_of_control_tokens(tiny: Tiny) -> None:
    """Each of them is tokenized alone, to stay text."""
    content = "</s>" * 10_001
    with running(tiny(chat_template=TEMPLATE), name="tiny", cells="16k") as server:
        body = {"messages": [{"role": "user", "content": content}], "prefill": "snapkv"}
        error = refused(send(server, "POST", "/v1/chat/completions", json.dumps(body).encode()))
    assert "names control tokens 10001 times: at most 10000" in error["message"]
