"""The program of a row's process, started by process.py.

One JSON object per line. The first on stdin is the row; the answer is ``ready`` once its cache is
filled, or ``refused``. Each further line asks for a block. When stdin ends, so does the process, in
the middle of a block if need be: whoever started it is gone.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import IO, Any, Protocol

from scope_cpp.bench.memory import anonymous_rss, peak_rss
from scope_cpp.bench.row import Compute, Row
from scope_cpp.errors import ScopeError
from scope_cpp.wording import speak_of_flags


class Subject(Protocol):
    """What a row measures."""

    def prepare(self) -> dict[str, Any]:
        """Make everything ready for the first step; say what it is."""

    def step(self) -> None:
        """Do what is timed."""

    def restore(self) -> None:
        """Make ready for the next step."""

    def counters(self) -> dict[str, float]:
        """Return running sums."""

    def state(self) -> dict[str, Any]:
        """Say what the cache is like after a block."""


@dataclass
class Meter:
    """Times the steps of a subject, one by one."""

    subject: Subject
    clock: Any

    def block(self, n_steps: int) -> dict[str, Any]:
        """Return the times of `n_steps` steps, and what memory and cache are like after them."""
        steps: dict[str, list[float]] = {"seconds": [], "native_seconds": []}
        started = time.monotonic()
        for _ in range(n_steps):
            self._step(steps)
        ended = time.monotonic()
        memory = {"peak_rss": peak_rss(), "anonymous_rss": anonymous_rss()}
        return {"started": started, "ended": ended, **steps, **memory, **self.subject.state()}

    def _step(self, steps: dict[str, list[float]]) -> None:
        before = self.subject.counters()
        self.clock.take()
        started = time.perf_counter()
        self.subject.step()
        steps["seconds"].append(time.perf_counter() - started)
        steps["native_seconds"].append(self.clock.take())
        for name, value in self.subject.counters().items():
            steps.setdefault(name, []).append(value - before[name])
        self.subject.restore()


def open_subject(row: Row, compute: Compute) -> Meter:
    """Load the model and make what the row measures; only bounded rows need our library."""
    from scope_cpp.bench.clock import NativeClock
    from scope_cpp.native.library import llama_cpp

    if not row.bounded:
        from scope_cpp.bench.stock import StockRow

        return Meter(StockRow(row, compute), NativeClock(llama_cpp))
    from scope_cpp.native import kv_evict

    subject = _kind(row.test)(row, compute)
    return Meter(subject, NativeClock(llama_cpp, kv_evict))


def _kind(test: str) -> Callable[[Row, Compute], Subject]:
    from scope_cpp.bench import bounded

    if test == "turn":
        from scope_cpp.bench.turn import TurnRow

        return TurnRow
    if test == "parallel":
        from scope_cpp.bench.parallel import ParallelRow

        return ParallelRow
    kinds: dict[str, Callable[[Row, Compute], Subject]] = {
        "prompt": bounded.PromptRow,
        "python": bounded.PythonRow,
    }
    return kinds.get(test, bounded.BoundedRow)


def serve(requests: queue.Queue[str], answers: IO[str]) -> None:
    """Answer requests; never returns."""

    def answer(kind: str, value: Any) -> None:
        answers.write(json.dumps({kind: value}) + "\n")
        answers.flush()

    speak_of_flags()
    asked = json.loads(requests.get())
    row = Row.from_json(asked["row"])
    try:
        from scope_cpp.engine import logs

        logs.capture(verbose=asked["verbose"])
        meter = open_subject(row, Compute(**asked["compute"]))
        answer("ready", meter.subject.prepare())
    except ScopeError as err:
        answer("refused", str(err))
        requests.get()
    while requests.get():
        answer("block", meter.block(row.n_steps))


def _read(requests: queue.Queue[str]) -> None:
    for line in sys.stdin:
        requests.put(line)
    os._exit(0)


def main() -> None:
    """Serve on stdin and stdout; what native code prints goes to stderr."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the one who started us decides
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    requests: queue.Queue[str] = queue.Queue()
    threading.Thread(target=_read, args=(requests,), daemon=True).start()
    try:
        serve(requests, answers)
    except BaseException as err:
        traceback.print_exc()
        print(f"{type(err).__name__}: {err}", file=sys.stderr, flush=True)
    os._exit(1)  # the thread holds stdin, at which an orderly end would stumble


if __name__ == "__main__":
    main()
