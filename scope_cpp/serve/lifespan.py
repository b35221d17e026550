"""From start to end: the engine's thread, the HTTP server, signals, and who waits for whom."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from typing import Any

import uvicorn

from scope_cpp.engine.generate import Warn
from scope_cpp.engine.parallel import ParallelEngine
from scope_cpp.errors import ScopeError
from scope_cpp.serve.app import Api
from scope_cpp.serve.auth import Guard, is_loopback
from scope_cpp.serve.desk import Desk
from scope_cpp.serve.gate import Gate
from scope_cpp.serve.metrics import Metrics
from scope_cpp.serve.options import Options, url_of
from scope_cpp.serve.serving import Serving
from scope_cpp.serve.wire import protocol
from scope_cpp.serve.worker import Worker

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_MOST_LINES = 1000
_TURN_SECONDS = 0.001
_LAST_SECONDS = 1.0  # for clients to take what is left, before their connections are closed


class Service:
    """A server that is ready to run.

    The engine is made at once, in its own thread. `run` serves until a signal or `stop`.

    Parameters
    ----------
    serving, options
        What answers are made with, and the limits.
    listener
        See `options.bind`.
    example
        A message that the model knows, for the page.
    warn, note
        Called with one line: what somebody should see to; what happens.
    verbose
        Note each request.

    Raises
    ------
    ScopeError
        If the engine can't be made.
    """

    def __init__(
        self,
        serving: Serving,
        options: Options,
        listener: socket.socket,
        *,
        example: str | None = None,
        warn: Warn,
        note: Callable[[str], None],
        verbose: bool = False,
    ) -> None:
        self.url = url_of(listener)
        self._serving = serving
        self._listener, self._options = listener, options
        self._warn = warn = _once(warn)
        self._failure: Exception | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._desk = Desk()
        metrics = Metrics()
        self._worker = Worker(
            lambda: ParallelEngine(
                serving.model,
                n_parallel=options.n_parallel,
                n_cells=serving.n_cells,
                settings=serving.settings,
                prefix_cells=serving.prefix_cells,
                warn=warn,
            ),
            n_parallel=options.n_parallel,
            queue=options.queue,
            metrics=metrics,
            on_failure=self._fail,
            report=warn,
        )
        guard = Guard(options.api_keys, is_loopback(listener.getsockname()[0]))
        api = Api(serving, self._desk, self._worker, options, metrics, example, note)
        self._http = _Http(
            uvicorn.Config(
                Gate(api, guard, metrics, note if verbose else _nothing, warn),
                http=protocol(options.body_timeout, options.max_connections),
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
            )
        )
        self._worker.start()

    @property
    def facts(self) -> dict[str, Any]:
        """What it is, for programs."""
        return {
            "url": self.url,
            "model": self._serving.name,
            "parallel": self._options.n_parallel,
            "cells": self._serving.n_cells,
        }

    @property
    def line(self) -> str:
        """The same for people."""
        return (
            f"{self._serving.name} is served at {self.url}: {self._options.n_parallel} answers at "
            f"once in {self._serving.n_cells} cells; Ctrl-C ends it"
        )

    def run(self) -> None:
        """Serve until the end.

        Raises
        ------
        ScopeError
            If the engine failed as a whole.
        """
        try:
            with _logged(self._warn), _short_turns():
                asyncio.run(self._serve())
        finally:
            self._desk.close()
        if self._failure is not None:
            self.settle()
            raise ScopeError(f"the engine failed: {self._failure}") from self._failure

    @property
    def busy(self) -> bool:
        """Whether threads still use the model after `run`, for requests that nobody waits for."""
        return self._desk.busy

    def settle(self) -> None:
        """Wait until nothing uses the model any more; it may be closed then."""
        self._desk.settle()

    def stop(self) -> None:
        """End it as a signal does; from any thread."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._signal)

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._worker.attach(self._loop)
        with _handled(self._loop, self._signal):
            try:
                await self._http.serve(sockets=[self._listener])
            finally:
                await asyncio.to_thread(self._worker.stop)
                self._loop = None

    def _signal(self) -> None:
        """The first time running answers have the grace, then none."""
        if self._worker.draining:
            self._cut()
        else:
            self._drain(self._options.grace)

    def _fail(self, err: Exception) -> None:
        self._failure = err
        self._drain(0)

    def _drain(self, seconds: float) -> None:
        if self._loop is None:
            return  # it has ended already
        self._worker.drain()
        self._http.should_exit = True
        self._loop.call_later(seconds, self._cut)

    def _cut(self) -> None:
        if self._loop is None:
            return  # it has ended already, within its grace
        self._worker.cut()
        self._loop.call_later(_LAST_SECONDS, self._http.hang_up)


def _once(warn: Warn) -> Warn:
    """Pass each line on the first time only: rows say the same again and again."""
    seen: set[str] = set()

    def pass_on(line: str) -> None:
        if line not in seen and len(seen) < _MOST_LINES:
            seen.add(line)
            warn(line)

    return pass_on


def _nothing(line: str) -> None:
    """Take no note."""


class _Http(uvicorn.Server):
    """uvicorn's server; signals are none of its business."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals alone."""
        yield

    def hang_up(self) -> None:
        """Close all connections, whatever has not been sent."""
        for connection in list(self.server_state.connections):
            connection.transport.abort()


@contextlib.contextmanager
def _handled(loop: asyncio.AbstractEventLoop, on_signal: Callable[[], None]) -> Iterator[None]:
    """Let signals call a function, where that can be done: in the main thread."""
    handled = []
    for number in _SIGNALS:
        with contextlib.suppress(ValueError, RuntimeError):
            loop.add_signal_handler(number, on_signal)
            handled.append(number)
    try:
        yield
    finally:
        for number in handled:
            loop.remove_signal_handler(number)


class _Lines(logging.Handler):
    """Sends what uvicorn and asyncio log on, one line each, without tracebacks."""

    def __init__(self, warn: Warn) -> None:
        super().__init__(logging.WARNING)
        self._warn = warn

    def emit(self, record: logging.LogRecord) -> None:
        """Take a record."""
        error = record.exc_info[1] if record.exc_info else None
        cause = f" ({type(error).__name__}: {error})" if error else ""
        self._warn(record.getMessage().strip() + cause)


@contextlib.contextmanager
def _short_turns() -> Iterator[None]:
    """Let threads that compute in Python give way soon.

    A step of the engine comes back from native code some twenty times, and each time it waits that
    long for a thread that checks a large request.
    """
    before = sys.getswitchinterval()
    sys.setswitchinterval(_TURN_SECONDS)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


@contextlib.contextmanager
def _logged(warn: Warn) -> Iterator[None]:
    handler, loggers = _Lines(warn), [logging.getLogger(name) for name in ("uvicorn", "asyncio")]
    for logger in loggers:
        logger.addHandler(handler)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeHandler(handler)
