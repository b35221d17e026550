"""Measure how long a client of ``scope serve`` waits for a token while others send costly schemas.

    python scripts/stall_serve.py MODEL.gguf [--seconds 8] [--senders 2] [--most 250]

The server is a process of its own. One client streams an answer after the other and notes the time
between two pieces of text; --senders others ask for answers to one of the costliest JSON schemas
that are accepted, or for plain answers in the first row, which is what to compare with. The exit
status is 1 if a gap is longer than --most milliseconds, or an answer to the streaming client fails.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

from soaking.clients import JSON, ask
from soaking.schemas import SCHEMAS
from soaking.server import Server, serve


def body_of(n: int, schema: Any = None, **fields: Any) -> bytes:
    """Return the body of a chat request for `n` tokens."""
    message = {"role": "user", "content": "Write a long story about a fox."}
    asked: dict[str, Any] = {"messages": [message], "max_tokens": n, **fields}
    if schema is not None:
        form = {"name": "a", "schema": schema}
        asked["response_format"] = {"type": "json_schema", "json_schema": form}
    return json.dumps(asked).encode()


def watch(server: Server, until: float, gaps: list[float], faults: list[str]) -> None:
    """Stream answers until the time is over, and note the seconds between their pieces."""
    while time.monotonic() < until:
        try:
            last = None
            for _ in ask(server, body_of(400, stream=True, ignore_eos=True)):
                now = time.monotonic()
                if last is not None:
                    gaps.append(now - last)
                last = now
                if now > until:
                    break
        except (OSError, http.client.HTTPException, ValueError) as err:
            faults.append(f"the streaming client: {err}"[:200])
            time.sleep(0.1)


def send(server: Server, until: float, body: bytes, told: Counter[str]) -> None:
    """Ask for the same again and again until the time is over."""
    while time.monotonic() < until:
        with contextlib.closing(server.connect()) as connection:
            connection.request("POST", "/v1/chat/completions", body, JSON)
            response = connection.getresponse()
            response.read()
            told[str(response.status)] += 1


def measure(server: Server, schema: Any, args: argparse.Namespace, faults: list[str]) -> str:
    """Run all clients for a while; return a row of the table."""
    gaps: list[float] = []
    told: Counter[str] = Counter()
    until = time.monotonic() + args.seconds
    body = body_of(args.tokens, schema, temperature=1.5, top_k=0)
    threads = [threading.Thread(target=watch, args=(server, until, gaps, faults))]
    threads += [
        threading.Thread(target=send, args=(server, until, body, told)) for _ in range(args.senders)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    ordered = sorted(1000 * gap for gap in gaps) or [float("inf")]
    middle, rare = ordered[len(ordered) // 2], ordered[int(0.99 * len(ordered))]
    if ordered[-1] > args.most:
        faults.append(f"a gap of {ordered[-1]:.0f} ms")
    statuses = ", ".join(f"{n} x {status}" for status, n in sorted(told.items()))
    return f"{len(gaps):>6} {middle:>8.0f} {rare:>8.0f} {ordered[-1]:>8.0f}   {statuses}"


def main(argv: list[str] | None = None) -> int:
    """Print the table and return the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path)
    parser.add_argument("--seconds", type=float, default=8.0, help="for each schema")
    parser.add_argument("--senders", type=int, default=2)
    parser.add_argument("--tokens", type=int, default=24, help="of their answers")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--most", type=float, default=250.0, help="milliseconds")
    parser.add_argument("--only", nargs="*", default=[], help="names of schemas")
    args = parser.parse_args(argv)
    faults: list[str] = []
    flags = ["-np", str(args.senders + 1), "-t", str(args.threads), "--cells", "8192"]
    print(f"{'':<26}{'gaps':>6} {'p50 ms':>8} {'p99 ms':>8} {'most ms':>8}   the senders' answers")
    with serve(args.model, flags, faults) as server:
        # the first schema waits for the model's vocabulary to be read
        b"".join(piece.encode() for piece in ask(server, body_of(3, {"const": 1})))
        for name, schema in {"no schema": None, **SCHEMAS}.items():
            if not args.only or name in args.only:
                row = measure(server, schema, args, faults)
                print(f"{name:<26}{row}", flush=True)
    for line in faults[:20]:
        print(f"fault: {line}")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
