"""Batches in this process, and what they wrote."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from scope_cpp.batch.asked import Asked
from scope_cpp.batch.job import Job
from scope_cpp.batch.requests import Defaults
from scope_cpp.batch.summary import Summary
from scope_cpp.engine.model import Model
from scope_cpp.engine.settings import Settings

SETTINGS = Settings(policy="scope-slide", options=("interval=4",), n_threads=1)


def skip_without_ray() -> None:
    """Without importing it: it reads its variables then, and a cluster of ours sets them first."""
    if importlib.util.find_spec("ray") is None:
        pytest.skip("no Ray: pip install 'scope-cpp[ray]'")


def write_rows(path: Path, rows: Iterable[object]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def records(path: Path) -> list[dict[str, Any]]:
    """Whole records of a file, without times."""
    found = []
    for line in path.read_bytes().split(b"\n")[:-1]:
        record = json.loads(line)
        record.pop("timings")
        found.append(record)
    return found


def by_id(path: Path) -> dict[str, dict[str, Any]]:
    found = {f"{record['id']}/{record['line']}": record for record in records(path)}
    assert len(found) == len(records(path)), "a row has two records"
    return found


def batch(
    model: Model,
    source: Path,
    output: Path,
    *,
    stop: Callable[[], bool] = lambda: False,
    notes: list[str] | None = None,
    defaults: Defaults | None = None,
    **asked: Any,
) -> Summary:
    """Run a batch with small budgets."""
    notes = [] if notes is None else notes
    job = Job(
        Asked(source, output, **{"n_parallel": 3, **asked}),
        defaults or Defaults(SETTINGS, {"temp": 0.0}, n_predict=24),
        model,
        placement={},
        write=lambda line: None,
        warn=notes.append,
        note=notes.append,
    )
    return job.run(stop=stop)
