"""The bridge between the event loop and the engine's thread, with an engine that does little."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Hashable
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest

from scope_cpp.engine.footprint import Footprint
from scope_cpp.engine.generate import Response, Stats
from scope_cpp.engine.parallel import Event, Request
from scope_cpp.errors import ScopeError, UsageError
from scope_cpp.serve import worker as worker_module
from scope_cpp.serve.errors import ApiError
from scope_cpp.serve.fair import FairQueue
from scope_cpp.serve.metrics import Metrics
from scope_cpp.serve.ticket import Ticket, Update
from scope_cpp.serve.worker import Worker

FAILS, NEVER_FITS = (1,), (2,)


class Engine:
    """Runs one row at a time; each says two tokens."""

    def __init__(self) -> None:
        self.began: list[Hashable] = []
        self.ended: list[Hashable] = []
        self.waiting: list[tuple[Hashable, Request]] = []
        self.running: list[tuple[Hashable, int]] = []
        self.n_cells, self.n_evicted, self.n_generated = 10, 0, 0

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *_: object) -> None:
        self.closed = True

    @property
    def n_running(self) -> int:
        return len(self.running)

    @property
    def n_waiting(self) -> int:
        return len(self.waiting)

    @property
    def busy(self) -> bool:
        return bool(self.running or self.waiting)

    def cells_used(self) -> int:
        return len(self.running)

    def memory(self) -> Footprint:
        return Footprint()

    def worst_case(self, request: Request) -> int:
        if request.prompt == NEVER_FITS:
            raise UsageError("it never fits")
        return 1

    def submit(self, request: Request, key: Hashable) -> None:
        self.waiting.append((key, request))

    def cancel(self, key: Hashable) -> None:
        self.ended.append(key)
        self.running = [row for row in self.running if row[0] != key]

    def step(self) -> list[Event]:
        if not self.running and self.waiting:
            key, request = self.waiting.pop(0)
            if request.prompt == FAILS:
                raise ScopeError("the device is gone")
            self.began.append(key)
            self.running.append((key, 0))
        said = []
        for key, n in self.running:
            reason = "length" if n == 1 else None
            said.append(Event(key, Response("x", 5, reason, Stats(n_generated=n + 1))))
        self.running = [(key, n + 1) for key, n in self.running if n == 0]
        return said


def play(
    part: Callable[[Worker, Engine], Awaitable[None]], engine: Engine | None = None, **fields: Any
) -> None:
    """Run a part on a loop with a worker, and end that in order."""
    engine = engine or Engine()
    values: dict[str, Any] = {"n_parallel": 1, "queue": 20, "metrics": Metrics()}
    worker = Worker(lambda: engine, **values | fields)  # type: ignore[arg-type,return-value]

    async def run() -> None:
        worker.start()
        worker.attach(asyncio.get_running_loop())
        try:
            await asyncio.wait_for(part(worker, engine), 30)
        finally:
            await asyncio.to_thread(worker.stop)

    asyncio.run(run())
    assert engine.closed


async def all_of(ticket: Ticket) -> list[tuple[int, Update]]:
    return [pair async for pair in ticket]


ROW = Request((0,))


def test_rows_of_a_ticket_are_told_apart() -> None:
    async def part(worker: Worker, engine: Engine) -> None:
        told = await all_of(worker.open("client", [ROW, ROW, ROW]))
        texts = ["", "", ""]
        for index, update in told:
            texts[index] += "".join(update.texts)
        assert texts == ["xx"] * 3
        assert [index for index, update in told if update.last] == [0, 1, 2]

    play(part)


def test_what_a_slow_client_missed_is_put_together() -> None:
    async def part(worker: Worker, engine: Engine) -> None:
        slow = worker.open("slow", [ROW])
        await all_of(worker.open("quick", [ROW]))
        await asyncio.sleep(0)
        ((index, update),) = await all_of(slow)
        assert (index, update.texts, update.last) == (0, ["x", "x"], True)
        assert update.stats is not None and update.stats.n_generated == 2

    play(part)


def test_clients_take_turns() -> None:
    async def part(worker: Worker, engine: Engine) -> None:
        many = [worker.open("many", [ROW]) for _ in range(6)]
        few = worker.open("few", [ROW])
        await asyncio.gather(*map(all_of, (*many, few)))
        # the first was alone, and another may have been taken before the few's came
        assert engine.began.index(6) <= 2

    play(part)


def test_what_never_fits_is_refused_alone() -> None:
    async def part(worker: Worker, engine: Engine) -> None:
        wrong, right = worker.open("a", [Request(NEVER_FITS)]), worker.open("a", [ROW])
        (_, update), *rest = await all_of(wrong)
        assert isinstance(update.error, UsageError) and update.last and not rest
        assert "".join(text for _, update in await all_of(right) for text in update.texts) == "xx"

    play(part)


def test_rows_that_write_go_on_while_many_come(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many answers a request asks for, between any two that take long there is a step."""
    now = itertools.count()
    monkeypatch.setattr(worker_module, "time", SimpleNamespace(monotonic=lambda: next(now)))
    done: list[str] = []

    class Slow(Engine):
        def worst_case(self, request: Request) -> int:
            done.append("came")
            return super().worst_case(request)

        def step(self) -> list[Event]:
            done.append("step")
            return super().step()

    async def part(worker: Worker, engine: Engine) -> None:
        await all_of(worker.open("many", [ROW] * 8))
        assert done.count("came") == 8
        assert ("came", "came") not in pairwise(done)

    play(part, Slow())


def test_no_more_than_there_are_places() -> None:
    async def part(worker: Worker, engine: Engine) -> None:
        ticket = worker.open("a", [ROW, ROW])
        with pytest.raises(ApiError) as full:
            worker.open("b", [ROW, ROW])
        assert full.value.status == 429
        await all_of(ticket)
        await all_of(worker.open("b", [ROW, ROW, ROW]))

    play(part, queue=2)


def test_a_ticket_that_is_closed_leaves_nothing() -> None:
    async def part(worker: Worker, engine: Engine) -> None:
        tickets = [worker.open("a", [ROW]) for _ in range(5)]
        for ticket in tickets:
            ticket.close()
            assert await all_of(ticket) == []
        ended = [index for index, u in await all_of(worker.open("a", [ROW] * 6)) if u.last]
        assert ended == list(range(6))

    play(part, queue=5)


def test_when_the_engine_fails_everybody_is_told() -> None:
    failures: list[Exception] = []

    async def part(worker: Worker, engine: Engine) -> None:
        tickets = [worker.open("a", [Request(FAILS)]), worker.open("b", [ROW])]
        for (_, update), *_ in await asyncio.gather(*map(all_of, tickets)):
            assert str(update.error) == "the device is gone"
        with pytest.raises(ApiError) as refused:
            worker.open("c", [ROW])
        assert refused.value.status == 503

    play(part, on_failure=failures.append)
    assert [str(err) for err in failures] == ["the device is gone"]


def test_an_engine_that_cannot_be_made() -> None:
    def fail() -> Any:
        raise ScopeError("no memory")

    with pytest.raises(ScopeError, match="no memory"):
        Worker(fail, n_parallel=1, queue=1, metrics=Metrics()).start()


def test_the_queue_serves_each_client_in_its_own_order() -> None:
    queue: FairQueue[str] = FairQueue()
    for client, n in {"a": 4, "b": 1, "c": 2}.items():
        for i in range(n):
            queue.put(client, f"{client}{i}", f"{client}{i}")
    assert len(queue) == 7
    assert queue.remove("a", "a1") and not queue.remove("a", "a1") and not queue.remove("d", "d0")
    order = [queue.pop() for _ in range(7)]
    assert order == ["a0", "b0", "c0", "a2", "c1", "a3", None]
    assert len(queue) == 0
