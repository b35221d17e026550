"""Fixtures of the runs: a model, and a task that needs no data."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from scope_cpp.engine.model import Model
from scope_cpp.eval import compare as compare_module
from scope_cpp.eval import run as run_module
from scope_cpp.eval.task import Task
from tests.eval.counting import Counting, run


@pytest.fixture(scope="session")
def model(tiny: Callable[..., Path]) -> Iterator[Model]:
    with Model.load(tiny()) as loaded:
        yield loaded


def _patch(monkeypatch: pytest.MonkeyPatch) -> Counting:
    task = Counting()

    def find(name: str) -> Task:
        return task

    monkeypatch.setattr(run_module, "find", find)
    monkeypatch.setattr(compare_module, "find", find)
    return task


@pytest.fixture
def counting(monkeypatch: pytest.MonkeyPatch) -> Counting:
    """Put the small task in the place of all others."""
    return _patch(monkeypatch)


@pytest.fixture(scope="session")
def _finished(model: Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "run"
    with pytest.MonkeyPatch.context() as monkeypatch:
        _patch(monkeypatch)
        run(model, folder)
    return folder


@pytest.fixture
def finished(_finished: Path, tmp_path: Path, counting: Counting) -> Path:
    """A run that is done, to be changed."""
    return Path(shutil.copytree(_finished, tmp_path / "run"))
