"""Workers as Ray actors: started, called, missed when they die, and started again."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any

from scope_cpp import __version__
from scope_cpp.batch.ray_cluster import Cluster
from scope_cpp.batch.ray_dispatch import Answer
from scope_cpp.batch.ray_worker import Hello, Turn, Worker
from scope_cpp.batch.record import Record
from scope_cpp.batch.rows import Row
from scope_cpp.batch.runner import Plan, Status
from scope_cpp.engine.generate import Warn
from scope_cpp.engine.session_model import difference
from scope_cpp.errors import ScopeError

# A worker that dies so often in a row before it is ready is not started again. Once it has rows,
# `ray_dispatch` sees to the end: each death is one of a row's.
MOST_BAD_STARTS = 3

_NOT_INSTALLED = "does not find scope-cpp: install it on every machine"
_WAIT_SECONDS = 0.5
_PATIENCE_SECONDS = 60


@dataclass
class _Place:
    """Where one worker after the other works.

    Attributes
    ----------
    past
        What its dead workers had done.
    status
        Of the one that is there.
    """

    actor: Any = None
    host: str | None = None  # once it is ready
    bad_starts: int = 0
    past: Status = Status()
    status: Status = Status()


class RayFleet:
    """A `scope_cpp.batch.ray_dispatch.Fleet` of actors.

    Parameters
    ----------
    cluster
    plan
        Its path must name the same file on every machine.
    identity
        Of that file.
    warn
        Called with a line for each death, and what workers warn of.
    """

    def __init__(
        self, cluster: Cluster, plan: Plan, identity: Mapping[str, Any], warn: Warn
    ) -> None:
        self._ray, self._share = cluster.ray, cluster.share
        self._plan, self._identity, self._warn = plan, identity, warn
        self._calls: dict[Any, int] = {}
        self._failures: list[str] = []
        self._patient_until = time.monotonic() + _PATIENCE_SECONDS
        self._warned: set[str] = set()
        self._places = [_Place() for _ in range(self._share.n_workers)]
        for worker in range(self._share.n_workers):
            self._start(worker)

    def send(self, worker: int, rows: list[Row]) -> None:
        """See `Fleet`."""
        self._calls[self._places[worker].actor.turn.remote(rows)] = worker

    def wait(self) -> list[Answer[Record]]:
        """See `Fleet`.

        Raises
        ------
        ScopeError
            If no worker or no machine is left, or the connection to Ray is lost.
        """
        if all(place.actor is None for place in self._places):
            raise ScopeError(self._failures[-1])
        try:
            ended, _ = self._ray.wait(list(self._calls), num_returns=1, timeout=_WAIT_SECONDS)
        except self._ray.exceptions.RayError as err:
            raise ScopeError(f"the connection to Ray is lost ({_line(err)})") from None
        self._tell_of_patience()
        return [answer for call in ended for answer in self._hear(call)]

    def status(self) -> Status:
        """Return the sum over all workers, dead ones included."""
        return _sum([each for place in self._places for each in (place.past, place.status)])

    def close(self) -> None:
        """End all workers."""
        self._calls.clear()
        for place in self._places:
            self._end(place)

    def _start(self, worker: int) -> None:
        place = self._places[worker]
        kind = self._ray.remote(Worker).options(
            num_cpus=self._share.n_cpus, num_gpus=self._share.n_gpus, max_restarts=0
        )
        place.actor = kind.remote()
        self._calls[place.actor.start.remote(self._plan, self._share.n_sharing)] = worker

    def _hear(self, call: Any) -> Iterator[Answer[Record]]:
        worker = self._calls.pop(call)
        errors = self._ray.exceptions
        try:
            said = self._ray.get(call)
        except errors.RayTaskError as err:  # raised by our own code
            raise ScopeError(f"a worker failed: {_line(err.cause)}") from err
        except errors.RayError as err:
            yield from self._missed(worker, err)
            return
        if isinstance(said, Hello):
            yield from self._greet(worker, said)
        else:
            yield self._listen(worker, said)

    def _greet(self, worker: int, hello: Hello) -> Iterator[Answer[Record]]:
        place = self._places[worker]
        error = hello.error or self._difference(hello)
        if error is not None:
            self._give_up(worker, f"a worker on {hello.host} cannot start: {error}")
            return
        place.host, place.bad_starts = hello.host, 0
        for failure in self._failures:
            self._warn_once(f"{failure}; the other workers go on")
        yield Answer(worker)

    def _difference(self, hello: Hello) -> str | None:
        """Say why a worker would not give the results that we do."""
        if hello.version != __version__:
            return f"scope-cpp is {hello.version} there, {__version__} here: install the same"
        other = difference(dict(hello.identity), dict(self._identity))
        if other is not None:
            return f"{self._plan.path} is another model there ({other}): copy this one there"
        return None

    def _listen(self, worker: int, turn: Turn) -> Answer[Record]:
        place = self._places[worker]
        place.status = turn.status
        for line in turn.warnings:
            self._warn_once(line)
        if turn.error is not None:
            raise ScopeError(f"the worker on {place.host} cannot go on: {turn.error}")
        return Answer(worker, turn.records)

    def _missed(self, worker: int, err: Exception) -> Iterator[Answer[Record]]:
        """Start a worker again that died."""
        if not any(node["Alive"] for node in self._ray.nodes()):
            raise ScopeError(
                "Ray has lost its last machine: what is finished stays, the same command goes on "
                "from there"
            )
        place = self._places[worker]
        reason, was_ready = _reason(self._ray, err), place.host is not None
        name = f"a worker on {place.host}" if was_ready else "a worker"
        self._end(place)
        place.past, place.status = _past(place), Status()
        place.bad_starts += not was_ready
        if reason == _NOT_INSTALLED:
            self._give_up(worker, f"{name} {reason}")
        elif place.bad_starts >= MOST_BAD_STARTS:
            self._give_up(worker, f"{name} {reason}, {MOST_BAD_STARTS} times in a row")
        else:
            rows = ", its rows are run again" if was_ready else ""
            self._warn(f"{name} {reason}; it is started again{rows}")
            self._start(worker)
        yield Answer(worker, death=reason)

    def _give_up(self, worker: int, failure: str) -> None:
        self._end(self._places[worker])
        self._failures.append(failure)
        if any(place.host for place in self._places):
            self._warn_once(f"{failure}; the other workers go on")

    def _end(self, place: _Place) -> None:
        if place.actor is not None:
            self._ray.kill(place.actor)
        place.actor = place.host = None

    def _warn_once(self, line: str) -> None:
        if line not in self._warned:
            self._warned.add(line)
            self._warn(line)

    def _tell_of_patience(self) -> None:
        missing = sum(place.actor is not None and place.host is None for place in self._places)
        if missing and time.monotonic() > self._patient_until:
            self._patient_until = float("inf")
            self._warn(
                f"{missing} of {len(self._places)} workers are not ready yet: Ray has no room for "
                "them now, or their model loads slowly; the rows wait for them"
            )


def _past(place: _Place) -> Status:
    """What counts of a dead worker: what it did, not what it held."""
    done = _sum([place.past, place.status])
    return Status(n_prompt=done.n_prompt, n_generated=done.n_generated, n_evicted=done.n_evicted)


def _sum(parts: list[Status]) -> Status:
    names = [item.name for item in fields(Status)]
    return Status(**{name: sum(getattr(part, name) for part in parts) for name in names})


def _reason(ray: Any, err: Exception) -> str:
    """Say in a few words why a worker died; Ray's own are a page."""
    if isinstance(err, ray.exceptions.OutOfMemoryError):
        return "was stopped by Ray because its machine ran out of memory"
    if isinstance(err, ray.exceptions.RuntimeEnvSetupError):
        return f"found no environment to work in ({_line(err)})"
    text = str(err)
    if "ModuleNotFoundError" in text or "ImportError" in text:
        return _NOT_INSTALLED
    if "node" in text and "died" in text and "process has died" not in text:
        return "was lost with its machine"
    return "was killed or crashed"


def _line(err: object) -> str:
    return " ".join(str(err).split())[:200]
