"""Workers that can't start, or die while they do: a Ray of this test's own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest

from scope_cpp.batch.ray_cluster import Cluster
from scope_cpp.batch.ray_dispatch import Answer
from scope_cpp.batch.ray_fleet import MOST_BAD_STARTS, RayFleet
from scope_cpp.batch.ray_share import Share
from scope_cpp.batch.ray_worker import Hello, Turn
from scope_cpp.batch.requests import Defaults
from scope_cpp.batch.runner import Plan, Status
from scope_cpp.errors import ScopeError

IDENTITY = {"file": "model.gguf", "header": "a", "n_bytes": 1, "weights": "b"}
READY = Hello("host", IDENTITY)
PLAN = Plan("/disk/model.gguf", {}, Defaults(), n_parallel=1, n_cells=1)


class RayError(Exception):
    pass


class RayTaskError(RayError):
    cause = ValueError("a bug")


class ActorDiedError(RayError):
    pass


class OutOfMemoryError(RayError):
    pass


class RuntimeEnvSetupError(RayError):
    pass


@dataclass(frozen=True, eq=False)
class Call:
    number: int
    said: Any


class Ray:
    """Its actors say what is scripted, one after the other; calls end in their order."""

    exceptions = SimpleNamespace(
        RayError=RayError,
        RayTaskError=RayTaskError,
        OutOfMemoryError=OutOfMemoryError,
        RuntimeEnvSetupError=RuntimeEnvSetupError,
    )

    def __init__(self, *says: Any) -> None:
        self.says = list(says)
        self.options: list[dict[str, Any]] = []
        self.killed = 0
        self.alive = True
        self.n_calls = 0

    def remote(self, kind: type) -> Any:
        def options(**given: Any) -> Any:
            self.options.append(given)
            return SimpleNamespace(remote=lambda: SimpleNamespace(start=call, turn=call))

        call = SimpleNamespace(remote=self._call)
        return SimpleNamespace(options=options)

    def _call(self, *_: Any) -> Call:
        self.n_calls += 1
        return Call(self.n_calls, self.says.pop(0))

    def wait(self, calls: list[Call], num_returns: int, timeout: float) -> Any:
        return calls[:1], calls[1:]

    def get(self, call: Call) -> Any:
        if isinstance(call.said, Exception):
            raise call.said
        return call.said

    def nodes(self) -> list[dict[str, bool]]:
        return [{"Alive": False}, {"Alive": self.alive}]

    def kill(self, actor: Any) -> None:
        self.killed += 1


def fleet_of(ray: Ray, n_workers: int, warn: Callable[[str], None]) -> RayFleet:
    return RayFleet(Cluster(ray, Share(n_workers, 2, 1, 1)), PLAN, IDENTITY, warn)


def answers(fleet: RayFleet, count: int) -> list[Answer[Any]]:
    return [answer for _ in range(count) for answer in fleet.wait()]


def test_workers_get_their_share() -> None:
    ray = Ray(READY)
    assert answers(fleet_of(ray, 1, print), 1) == [Answer(0)]
    assert ray.options == [{"num_cpus": 2, "num_gpus": 1, "max_restarts": 0}]


@pytest.mark.parametrize(
    ("hello", "phrase"),
    [
        (Hello("host", error="no model: give one"), "on host cannot start: no model: give one"),
        (Hello("host", IDENTITY, version="0"), "scope-cpp is 0 there"),
        (Hello("host", {**IDENTITY, "weights": "c"}), "/disk/model.gguf is another model there"),
    ],
)
def test_if_none_can_start_the_reason_is_told_once(hello: Hello, phrase: str) -> None:
    warnings: list[str] = []
    fleet = fleet_of(Ray(hello, hello), 2, warnings.append)
    with pytest.raises(ScopeError, match=phrase):
        answers(fleet, 3)
    assert warnings == []


@pytest.mark.parametrize("first", [True, False])
def test_if_one_cannot_start_the_others_go_on(first: bool) -> None:
    bad = Hello("far", error="no model")
    warnings: list[str] = []
    fleet = fleet_of(Ray(*((bad, READY) if first else (READY, bad))), 2, warnings.append)
    assert answers(fleet, 2) == [Answer(int(first))]
    assert warnings == ["a worker on far cannot start: no model; the other workers go on"]


def test_a_worker_that_dies_whenever_it_starts_is_given_up() -> None:
    warnings: list[str] = []
    ray = Ray(*[OutOfMemoryError()] * MOST_BAD_STARTS)
    fleet = fleet_of(ray, 1, warnings.append)
    reason = "was stopped by Ray because its machine ran out of memory"
    assert answers(fleet, MOST_BAD_STARTS) == [Answer(0, death=reason)] * MOST_BAD_STARTS
    with pytest.raises(ScopeError, match=f"{reason}, 3 times in a row"):
        fleet.wait()
    assert warnings == [f"a worker {reason}; it is started again"] * (MOST_BAD_STARTS - 1)
    assert ray.killed == MOST_BAD_STARTS


def test_a_machine_without_scope_cpp_is_not_tried_again() -> None:
    fleet = fleet_of(Ray(ActorDiedError("ModuleNotFoundError: scope_cpp")), 1, print)
    (answer,) = fleet.wait()
    assert answer.death == "does not find scope-cpp: install it on every machine"
    with pytest.raises(ScopeError, match="a worker does not find scope-cpp"):
        fleet.wait()


def test_without_a_machine_it_ends() -> None:
    ray = Ray(READY, ActorDiedError("The actor died because its node has died"))
    fleet = fleet_of(ray, 1, print)
    fleet.wait()
    fleet.send(0, [])
    ray.alive = False
    with pytest.raises(ScopeError, match="lost its last machine"):
        fleet.wait()


def test_a_worker_that_was_ready_is_started_again_however_often_it_dies() -> None:
    says: list[Any] = []
    for _ in range(2 * MOST_BAD_STARTS):
        says += [READY, Turn((), Status(n_generated=7, cells_used=5)), ActorDiedError()]
        says += [READY, ActorDiedError()]
    fleet = fleet_of(Ray(*says, READY), 1, lambda line: None)
    for _ in range(2 * MOST_BAD_STARTS):
        assert fleet.wait() == [Answer(0)]
        fleet.send(0, [])
        assert fleet.wait() == [Answer(0)]
        assert fleet.status().cells_used == 5
        fleet.send(0, [])
        assert fleet.wait() == [Answer(0, death="was killed or crashed")]
        assert fleet.status().cells_used == 0
        assert fleet.wait() == [Answer(0)]
        fleet.send(0, [])
        assert fleet.wait() == [Answer(0, death="was killed or crashed")]
    # what dead ones did counts
    assert fleet.status().n_generated == 2 * MOST_BAD_STARTS * 7


def test_what_a_worker_says_is_passed_on() -> None:
    warnings: list[str] = []
    turn = Turn((("id 1", "record"),), Status(), ("small budget",))  # type: ignore[arg-type]
    fleet = fleet_of(
        Ray(READY, turn, turn, Turn((), Status(), (), "no memory")), 1, warnings.append
    )
    fleet.wait()
    for _ in range(2):
        fleet.send(0, [])
        assert fleet.wait() == [Answer(0, (("id 1", "record"),))]
    assert warnings == ["small budget"]
    fleet.send(0, [])
    with pytest.raises(ScopeError, match="the worker on host cannot go on: no memory"):
        fleet.wait()


def test_a_bug_in_a_worker_is_an_error_of_the_run() -> None:
    with pytest.raises(ScopeError, match="a worker failed: a bug"):
        fleet_of(Ray(RayTaskError()), 1, print).wait()
