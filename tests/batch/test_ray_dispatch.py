"""Who runs what, on workers that die: a fleet without Ray."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scope_cpp.batch.ray_dispatch import MOST_DEATHS, Answer, Dispatch
from scope_cpp.errors import ScopeError


@dataclass(frozen=True)
class Line:
    key: str


class Fleet:
    """Workers that finish a row per answer and die of `killers`, or by `chance` of anything."""

    def __init__(
        self, n: int, killers: Collection[str] = (), chance: float = 0, seed: int = 0
    ) -> None:
        self.killers, self.chance, self.random = killers, chance, random.Random(seed)
        self.rows: list[list[str]] = [[] for _ in range(n)]
        self.working: set[int] = set()
        self.back = list(range(n))
        self.runs = Counter[str]()
        self.most_held = [0] * n

    def send(self, worker: int, rows: list[Line]) -> None:
        assert worker not in self.working, "a worker gets rows only after it has answered"
        self.working.add(worker)
        self.rows[worker] += [row.key for row in rows]
        self.runs.update(row.key for row in rows)
        self.most_held[worker] = max(self.most_held[worker], len(self.rows[worker]))

    def wait(self) -> list[Answer[str]]:
        if self.back:
            return [Answer(self.back.pop())]
        if not self.working:
            raise ScopeError("nobody works, nobody comes back")
        worker = self.random.choice(sorted(self.working))
        self.working.discard(worker)
        keys = self.rows[worker]
        if set(self.killers) & set(keys) or self.random.random() < self.chance:
            self.rows[worker] = []
            self.back.append(worker)
            return [Answer(worker, death="killed")]
        key = keys.pop(self.random.randrange(len(keys)))
        return [Answer(worker, ((key, f"did {key}"),))]


def make(fleet: Fleet, most_held: int = 3) -> Dispatch[Line, str]:
    return Dispatch(fleet, len(fleet.rows), most_held, lambda row, why: f"{why} by {row.key}")


def run(fleet: Fleet, n_rows: int, most_held: int = 3) -> list[str]:
    dispatch, records, rows = make(fleet, most_held), list[str](), iter(range(n_rows))
    for row in rows:
        dispatch.submit(Line(str(row)))
        while dispatch.room <= 0:
            records += dispatch.step()
    while dispatch.busy:
        records += dispatch.step()
    return records


def test_every_row_is_run_once_where_nobody_dies() -> None:
    fleet = Fleet(3)
    assert sorted(run(fleet, 40)) == sorted(f"did {row}" for row in range(40))
    assert set(fleet.runs.values()) == {1}
    assert max(fleet.most_held) == 3


def test_a_few_rows_are_shared_although_one_worker_is_ready_first() -> None:
    fleet = Fleet(2)
    run(fleet, 4, most_held=8)
    assert max(fleet.most_held) == 2 and min(fleet.most_held) >= 1


def test_no_more_rows_are_wanted_than_the_workers_may_hold() -> None:
    dispatch = make(Fleet(2), most_held=4)
    for row in range(8):
        assert dispatch.room == 8 - row
        dispatch.submit(Line(str(row)))
    assert dispatch.step() == [] and dispatch.room == 0
    while not dispatch.step():
        assert dispatch.room == 0
    assert dispatch.room == 1


@given(n=st.integers(1, 4), n_rows=st.integers(0, 30), most=st.integers(1, 5), seed=st.integers())
def test_each_row_has_one_record_whoever_dies(n: int, n_rows: int, most: int, seed: int) -> None:
    fleet = Fleet(n, chance=0.4, seed=seed)
    records = run(fleet, n_rows, most)
    assert sorted(record.split()[-1] for record in records) == sorted(map(str, range(n_rows)))
    assert all(count <= MOST_DEATHS for count in fleet.runs.values())


@given(
    killing=st.sets(st.integers(0, 19), max_size=8),
    n=st.integers(1, 3),
    most=st.integers(1, 5),
    seed=st.integers(),
)
def test_only_rows_that_kill_are_given_up(killing: set[int], n: int, most: int, seed: int) -> None:
    killers = {str(row) for row in killing}
    fleet = Fleet(n, killers, seed=seed)
    keys = [str(row) for row in range(20)]
    expected = [f"killed by {key}" if key in killers else f"did {key}" for key in keys]
    assert sorted(run(fleet, 20, most)) == sorted(expected)
    assert all(fleet.runs[key] == MOST_DEATHS for key in killers)


class Scripted:
    """Answers as told."""

    def __init__(self, *answers: Answer[str]) -> None:
        self.answers = list(answers)
        self.sent: list[tuple[int, list[str]]] = []

    def send(self, worker: int, rows: list[Line]) -> None:
        self.sent.append((worker, [row.key for row in rows]))

    def wait(self) -> list[Answer[str]]:
        return [self.answers.pop(0)]


def test_a_worker_that_is_taken_for_dead_writes_nothing_more() -> None:
    late = (("a", "late"),)
    fleet = Scripted(
        Answer(0), Answer(0, death="lost"), Answer(1), Answer(0, late), Answer(1, (("a", "done"),))
    )
    dispatch = Dispatch(fleet, 2, 1, lambda row, why: why)
    dispatch.submit(Line("a"))
    assert [dispatch.step() for _ in range(5)] == [[], [], [], [], ["done"]]
    assert fleet.sent == [(0, ["a"]), (1, ["a"])]
    assert not dispatch.busy


def test_what_a_worker_finished_before_it_died_is_not_run_again() -> None:
    fleet = Scripted(Answer(0), Answer(0, (("a", "done"),), death="killed"), Answer(0), Answer(0))
    dispatch = Dispatch(fleet, 1, 2, lambda row, why: why)
    for key in "ab":
        dispatch.submit(Line(key))
    assert [dispatch.step() for _ in range(4)] == [[], ["done"], [], []]
    assert fleet.sent == [(0, ["a", "b"]), (0, ["b"])]


def test_the_end_of_the_fleet_is_told() -> None:
    dispatch = make(Fleet(0))
    dispatch.submit(Line("a"))
    with pytest.raises(ScopeError, match="nobody"):
        dispatch.step()
