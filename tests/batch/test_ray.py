"""Rows on a local Ray of two workers, some of which are killed."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from scope_cpp.batch.ray_cluster import LOCAL, Cluster, cluster
from scope_cpp.batch.ray_runner import RayRunner
from scope_cpp.batch.record import Record
from scope_cpp.batch.requests import Defaults
from scope_cpp.batch.rows import FAILED, INVALID_REQUEST, Row
from scope_cpp.batch.runner import EngineRunner, Plan, Runner
from scope_cpp.engine.model import Model
from scope_cpp.engine.session_model import identify
from scope_cpp.engine.settings import Settings
from scope_cpp.errors import ScopeError, UsageError
from scope_cpp.reference.shipped import model_path
from tests.batch.drive import skip_without_ray
from tests.batch.ray_plans import POISON, DyingPlan

Tiny = Callable[..., Path]

N_PREDICT = 40
ROWS = [
    Row(i, i + 1, f"row {i}", f"{i:016x}", f"Once upon a time {i} kings had daughters")
    for i in range(12)
]


def test_ray_that_is_absent_is_told_how_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with (
        pytest.raises(UsageError, match=r"pip install 'scope-cpp\[ray\]'"),
        cluster(LOCAL, n_workers=2, n_threads=1, placement={}),
    ):
        pass


@pytest.fixture(scope="module")
def two() -> Iterator[Cluster]:
    skip_without_ray()
    with cluster(LOCAL, n_workers=2, n_threads=1, placement={}) as found:
        yield found


@pytest.fixture(scope="module")
def plan() -> Plan:
    settings = Settings(policy="streaming-llm", budget="40", n_threads=1)
    defaults = Defaults(settings, {"temp": 0.0}, seed=1, n_predict=N_PREDICT)
    return Plan(str(model_path()), {}, defaults, n_parallel=2, n_cells=200)


@pytest.fixture(scope="module")
def identity(plan: Plan) -> dict[str, Any]:
    with Model.load(plan.path) as model:
        return identify(model)


@pytest.fixture(scope="module")
def alone(plan: Plan) -> dict[str, dict[str, Any]]:
    """What comes of the rows without Ray."""
    with (
        Model.load(plan.path) as model,
        EngineRunner(model, plan.defaults, n_parallel=2, n_cells=200, warn=print) as runner,
    ):
        records = run(runner, ROWS)
    assert any(record.evicted for record in records)
    return {record.digest: values_of(record) for record in records}


def run(runner: Runner, rows: list[Row]) -> list[Record]:
    waiting, records = list(rows), []
    while waiting or runner.busy:
        while waiting and runner.room > 0:
            runner.submit(waiting.pop(0))
        records += runner.step()
    return records


def values_of(record: Record) -> dict[str, Any]:
    """All of a record but how long it took."""
    return {name: value for name, value in asdict(record).items() if name != "timings"}


def test_the_rows_of_a_worker_that_is_killed_are_run_again_and_come_once(
    two: Cluster, plan: Plan, identity: dict[str, Any], alone: dict[str, Any], tmp_path: Path
) -> None:
    warnings: list[str] = []
    first = tmp_path / "first"
    dying = DyingPlan(**vars(plan), first=str(first))
    with RayRunner(two, dying, identity, warnings.append) as runner:
        records = run(runner, ROWS)
        status = runner.status()
    assert first.exists()
    assert len(records) == len(ROWS)
    assert {record.digest: values_of(record) for record in records} == alone
    # on a busy machine another one says that the rows wait for workers
    (killed,) = [line for line in warnings if "was killed or crashed" in line]
    assert "it is started again" in killed
    # what the dead one had done counts
    assert status.n_generated >= sum(record.n_generated for record in records)
    assert status.cells_used == 0


def test_a_row_that_kills_its_workers_becomes_an_error_and_no_other_row_does(
    two: Cluster, plan: Plan, identity: dict[str, Any], alone: dict[str, Any]
) -> None:
    poison = replace(ROWS[2], prompt=POISON)
    wrong = replace(ROWS[3], prompt="")
    rows = [*ROWS[:2], poison, wrong, *ROWS[4:6]]
    warnings: list[str] = []
    with RayRunner(two, DyingPlan(**vars(plan)), identity, warnings.append) as runner:
        records = {record.digest: record for record in run(runner, rows)}
    # on a busy machine another one says that the rows wait for workers
    killed = [line for line in warnings if "was killed or crashed" in line]
    assert len(records) == len(rows) and len(killed) == 3
    for row in (*ROWS[:2], *ROWS[4:6]):
        assert values_of(records.pop(row.digest)) == alone[row.digest]
    error = records[poison.digest].error
    assert error is not None and error.type == FAILED
    assert error.message.startswith("its worker was killed or crashed, 3 times")
    refused = records[wrong.digest].error
    assert refused is not None and refused.type == INVALID_REQUEST


def test_workers_without_the_model_or_with_another_one_are_told_in_one_line(
    two: Cluster, plan: Plan, identity: dict[str, Any], tiny: Tiny, tmp_path: Path
) -> None:
    one = replace(two, share=replace(two.share, n_workers=1))

    def told(path: Path) -> str:
        warnings: list[str] = []
        with (
            RayRunner(one, replace(plan, path=str(path)), identity, warnings.append) as runner,
            pytest.raises(ScopeError) as caught,
        ):
            run(runner, ROWS[:2])
        assert warnings == []
        return str(caught.value)

    missing = tmp_path / "not here.gguf"
    assert f"cannot start: {missing}" in told(missing)
    other = shutil.copy(tiny(), tmp_path / "model.gguf")
    assert "is another model there" in told(Path(other))
