"""The one thread that has the engine, and the bridge to it from the event loop.

The loop's side (`Worker.open`, `ticket`) holds who waits for what; the thread's side the engine and
the queue. What goes over is a command, run by the thread between two steps, and a list of updates,
handed out by the loop. A command waits for a step, or for several where many came at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import threading
import time
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future
from functools import partial
from queue import Empty, SimpleQueue
from typing import NoReturn

from scope_cpp.engine.parallel import Event, ParallelEngine, Request
from scope_cpp.errors import ScopeError
from scope_cpp.serve.errors import ApiError, internal, one_line, shutting_down
from scope_cpp.serve.fair import FairQueue
from scope_cpp.serve.metrics import Metrics
from scope_cpp.serve.picture import picture
from scope_cpp.serve.ticket import Row, Ticket, Update

PICTURE_EVERY = 16  # tokens
RETRY_SECONDS = 2
_MOMENT = 0.02  # seconds for commands between two steps, unless a single one takes longer

Command = Callable[[ParallelEngine], None]


class Worker:
    """Runs an engine in a thread of its own.

    Parameters
    ----------
    open_engine
        Makes the engine, in that thread.
    n_parallel
        Rows that run at once.
    queue
        Rows that may wait beside those.
    metrics
        Told what happens.
    on_failure
        Called on the loop if the engine fails as a whole: no row can run any more.
    report
        Called in the thread with a line about what should not happen.
    """

    def __init__(
        self,
        open_engine: Callable[[], ParallelEngine],
        *,
        n_parallel: int,
        queue: int,
        metrics: Metrics,
        on_failure: Callable[[Exception], None] = lambda err: None,
        report: Callable[[str], None] = lambda line: None,
    ) -> None:
        self._open_engine, self._n_parallel = open_engine, n_parallel
        self.most_rows = n_parallel + queue
        self._metrics, self._on_failure, self._report = metrics, on_failure, report
        self._loop: asyncio.AbstractEventLoop | None = None
        self._tickets: dict[int, tuple[Ticket, Hashable]] = {}
        self._keys = itertools.count()
        self._draining = asyncio.Event()
        self._engine: ParallelEngine | None = None
        self.failure: Exception | None = None
        # the thread's own
        self._commands: SimpleQueue[Command] = SimpleQueue()
        self._waiting: FairQueue[Row] = FairQueue()
        self._running: dict[int, Row] = {}
        self._n_generated = 0
        self._stopped = False
        self._ready: Future[None] = Future()
        self._thread = threading.Thread(target=self._run, name="scope-engine", daemon=True)

    # -- from outside -------------------------------------------------------------------

    def start(self) -> None:
        """Start the thread and wait for the engine; raises what making it raises."""
        self._thread.start()
        self._ready.result()

    def attach(self, loop: asyncio.AbstractEventLoop) -> None:
        """Hand updates out on this loop."""
        self._loop = loop

    def open(self, client: Hashable, requests: Sequence[Request], picture: bool = False) -> Ticket:
        """Let rows wait for their turn; on the loop's thread only.

        Raises
        ------
        ApiError
            429 if there is no place for all of them, 503 if nothing new is taken.
        """
        if self.draining or self.failure is not None:
            raise shutting_down()
        if len(self._tickets) + len(requests) > self.most_rows:
            raise ApiError(
                429,
                f"all {self.most_rows} places are taken or too few are left: try again later",
                code="queue_full",
                headers={"Retry-After": str(RETRY_SECONDS)},
            )
        rows = [Row(next(self._keys), client, request, picture) for request in requests]
        ticket = Ticket(self.cancel, [row.key for row in rows])
        for row in rows:
            self._tickets[row.key] = ticket, client
            self._commands.put(partial(self._enter, row))
        return ticket

    def cancel(self, keys: Sequence[int]) -> None:
        """Forget rows; on the loop's thread only."""
        for key in keys:
            held = self._tickets.pop(key, None)
            if held is not None:
                self._commands.put(partial(self._leave, key, held[1]))

    @property
    def draining(self) -> bool:
        """Whether nothing new is taken."""
        return self._draining.is_set()

    async def drained(self) -> NoReturn:
        """Wait until nothing new is taken any more, and raise the error that says so."""
        await self._draining.wait()
        raise shutting_down()

    def drain(self) -> None:
        """Take nothing new, and refuse what waits; on the loop's thread only."""
        self._draining.set()
        self._end([key for key in self._tickets if key not in self._running])

    def cut(self) -> None:
        """End what runs, in the middle of a step if need be; on the loop's thread only."""
        self._draining.set()
        if self._engine is not None:
            self._engine.abort()
        self._end(list(self._tickets))

    def _end(self, keys: Sequence[int]) -> None:
        """Tell rows that the server ended them, and forget them."""
        clients = [self._tickets[key][1] for key in keys]
        self._receive([(key, Update(cut=True)) for key in keys])
        for key, client in zip(keys, clients, strict=True):
            self._commands.put(partial(self._leave, key, client))

    def stop(self) -> None:
        """End the thread and free the engine; rows that are left get no answer."""
        self._commands.put(lambda engine: self._stop())
        self._thread.join()

    # -- the thread ---------------------------------------------------------------------

    def _run(self) -> None:
        try:
            engine = self._open_engine()
        except BaseException as err:
            self._ready.set_exception(err)
            return
        self._engine = engine
        with engine:
            self._observe(engine)
            self._ready.set_result(None)
            try:
                while not self._stopped:
                    self._turn(engine)
            except Exception as err:  # whatever it is, it must not leave clients waiting
                self._fail(err)

    def _turn(self, engine: ParallelEngine) -> None:
        self._obey(engine)
        self._admit(engine)
        updates = [self._update(engine, event) for event in engine.step()]
        self._observe(engine)
        self._hand_out(updates)

    def _obey(self, engine: ParallelEngine) -> None:
        """Run the commands that came, as far as a moment goes: rows wait that write.

        With nothing else to do, wait for one.
        """
        idle = not engine.busy and not len(self._waiting)
        until = None
        with contextlib.suppress(Empty):
            while not self._stopped and (until is None or time.monotonic() < until):
                self._commands.get(block=idle)(engine)
                until, idle = until or time.monotonic() + _MOMENT, False

    def _enter(self, row: Row, engine: ParallelEngine) -> None:
        """Queue a row; refuse at once one that can never run."""
        try:
            engine.worst_case(row.request)
        except Exception as err:  # whatever it is, it is this row's
            self._refuse(row, err)
        else:
            self._waiting.put(row.client, row.key, row)

    def _refuse(self, row: Row, err: Exception) -> None:
        if not isinstance(err, ScopeError):
            self._report(one_line(f"{type(err).__name__}: {err}"))
            err = ScopeError(internal().message)
        self._hand_out([(row.key, Update(error=err))])

    def _leave(self, key: int, client: Hashable, engine: ParallelEngine) -> None:
        if not self._waiting.remove(client, key):
            self._running.pop(key, None)
            engine.cancel(key)

    def _admit(self, engine: ParallelEngine) -> None:
        """Give the engine one row at a time, so that clients take turns until the last moment."""
        while engine.n_waiting == 0 and engine.n_running < self._n_parallel:
            row = self._waiting.pop()
            if row is None:
                return
            try:
                engine.submit(row.request, row.key)
                self._running[row.key] = row
            except Exception as err:  # whatever it is, it is this row's
                self._refuse(row, err)

    def _update(self, engine: ParallelEngine, event: Event) -> tuple[int, Update]:
        key = int(event.key)  # type: ignore[call-overload]
        update, row = Update.of(event), self._running[key]
        if update.last:
            del self._running[key]
        stats = update.stats
        if stats is None:
            return key, update
        if update.last:
            self._metrics.tokens(prompt=stats.n_prompt)
        if row.picture:
            due = stats.n_generated % PICTURE_EVERY == 1 and not update.last
            update.picture = picture(engine.positions(key) if due else None, stats)
        return key, update

    def _stop(self) -> None:
        self._stopped = True

    def _fail(self, err: Exception) -> None:
        self.failure = err
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._lose, err)

    def _observe(self, engine: ParallelEngine) -> None:
        generated, self._n_generated = engine.n_generated - self._n_generated, engine.n_generated
        self._metrics.tokens(generated=generated)
        memory = engine.memory()
        self._metrics.gauges(
            running=engine.n_running,
            waiting=engine.n_waiting + len(self._waiting),
            cells_used=engine.cells_used(),
            cells_total=engine.n_cells,
            evicted=engine.n_evicted,
            kv_bytes=memory.kv,
            memory_bytes=memory.total,
            copies_bytes=memory.copies,
        )

    def _hand_out(self, updates: list[tuple[int, Update]]) -> None:
        if updates and self._loop is not None:
            self._loop.call_soon_threadsafe(self._receive, updates)

    # -- the loop -----------------------------------------------------------------------

    def _receive(self, updates: list[tuple[int, Update]]) -> None:
        for key, update in updates:
            held = self._tickets.get(key)
            if held is None:  # its client is gone
                continue
            if update.last:
                del self._tickets[key]
            held[0].give(key, update)

    def _lose(self, err: Exception) -> None:
        """End all rows: there is no engine any more."""
        told = err if isinstance(err, ScopeError) else ScopeError("the engine failed")
        self._receive([(key, Update(error=told)) for key in self._tickets])
        self._on_failure(err)
