"""Clients that ask, leave, and say wrong things; and what they saw."""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import random
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from soaking.server import PATIENCE, Server

JSON = {"Content-Type": "application/json"}

# what a server must refuse, and with which status
WRONG: tuple[tuple[bytes, int], ...] = (
    (b'{"messages": [', 400),
    (b'{"messages": "none"}', 400),
    (b'{"messages": [{"role": "user", "content": "\xff"}]}', 400),
    (b'{"messages": [{"role": "user", "content": "x"}], "max_tokens": -1}', 400),
    (b'{"messages": [{"role": "user", "content": "x"}], "bogus": 1}', 400),
)


@dataclass
class Seen:
    """What the clients and the watch saw; each list is appended to by many threads."""

    seconds: list[float] = field(default_factory=list)
    first: list[float] = field(default_factory=list)  # seconds to the first text
    faults: list[str] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    rss: list[tuple[float, int]] = field(default_factory=list)
    cells: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def count(self, what: str) -> None:
        """Count an outcome."""
        with self.lock:
            self.counts[what] += 1


def body_of(prompt: str, args: argparse.Namespace, stream: bool) -> bytes:
    """Return the body of a chat request."""
    message = {"role": "user", "content": prompt}
    asked = {"messages": [message], "temperature": 0, "max_tokens": args.tokens, "stream": stream}
    return json.dumps(asked | {"budget": args.budget}).encode()


def ask(
    server: Server, body: bytes, leave_after: int | None = None, seconds: float = PATIENCE
) -> Iterator[str]:
    """Yield the pieces of an answer; the connection is cut after `leave_after` of them.

    Parameters
    ----------
    seconds
        To wait for each piece.

    Raises
    ------
    ValueError
        If it is refused, has an error or no end.
    """
    with contextlib.closing(server.connect(seconds)) as connection:
        connection.request("POST", "/v1/chat/completions", body, JSON)
        response = connection.getresponse()
        if response.status != 200:
            raise ValueError(f"status {response.status}: {response.read(500)!r}")
        if not response.getheader("Content-Type", "").startswith("text/event-stream"):
            yield json.loads(response.read())["choices"][0]["message"]["content"]
            return
        reason, n = None, 0
        for line in response:
            data = line.strip().removeprefix(b"data:").strip()
            if data == b"[DONE]":
                if reason is None:
                    raise ValueError("the answer ended without a reason")
                return
            if not data or line.startswith(b":"):
                continue
            chunk = json.loads(data)
            if "error" in chunk:
                raise ValueError(f"an error in the stream: {chunk['error']}")
            for choice in chunk["choices"]:
                reason = choice["finish_reason"] or reason
                yield choice["delta"].get("content") or ""
            n += 1
            if n == leave_after:
                return
        raise ValueError("the answer has no end")


def client(
    number: int,
    server: Server,
    sheets: dict[str, str],
    args: argparse.Namespace,
    until: float,
    seen: Seen,
) -> None:
    """Ask until the time is over."""
    rng = random.Random(f"{args.seed}/{number}")
    prompts = list(sheets)
    while time.monotonic() < until:
        prompt, dice = rng.choice(prompts), rng.random()
        try:
            if dice < args.wrong:
                _say_wrong(server, rng.choice(WRONG), seen)
            elif dice < args.wrong + args.leave:
                _leave(server, prompt, sheets[prompt], args, rng, seen)
            else:
                _ask_once(server, prompt, sheets[prompt], args, rng, seen)
        except (OSError, http.client.HTTPException, ValueError) as err:
            seen.count("lost")
            seen.faults.append(f"client {number}: {type(err).__name__}: {err}"[:300])
            time.sleep(0.1)


def _say_wrong(server: Server, wrong: tuple[bytes, int], seen: Seen) -> None:
    body, status = wrong
    with contextlib.closing(server.connect()) as connection:
        connection.request("POST", "/v1/chat/completions", body, JSON)
        response = connection.getresponse()
        told = json.loads(response.read())
        if response.status != status or not told["error"]["message"]:
            raise ValueError(f"{body[:60]!r} was answered with {response.status}: {told}")
    seen.count("refused")


def _leave(
    server: Server,
    prompt: str,
    expected: str,
    args: argparse.Namespace,
    rng: random.Random,
    seen: Seen,
) -> None:
    """Cut the connection after some pieces, or when one takes too long."""
    text, n = "", rng.randrange(1, args.tokens // 2)
    seconds = PATIENCE if rng.random() < 0.5 else rng.uniform(0.01, 5)
    with contextlib.suppress(TimeoutError):
        for piece in ask(server, body_of(prompt, args, True), n, seconds):
            text += piece
    seen.count("left")
    if not expected.startswith(text):
        seen.count("mixed")
        seen.faults.append(f"a cut answer differs: {text[:80]!r}")


def _ask_once(
    server: Server,
    prompt: str,
    expected: str,
    args: argparse.Namespace,
    rng: random.Random,
    seen: Seen,
) -> None:
    started, first, text = time.monotonic(), None, ""
    stream = rng.random() < 0.7
    for piece in ask(server, body_of(prompt, args, stream)):
        first = first or time.monotonic()
        text += piece
    seen.count("answered")
    seen.seconds.append(time.monotonic() - started)
    if stream and first is not None:
        seen.first.append(first - started)
    if text != expected:
        seen.count("mixed")
        seen.faults.append(f"an answer differs: {text[:80]!r} instead of {expected[:80]!r}")
