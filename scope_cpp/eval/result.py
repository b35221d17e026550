"""What came of a run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scope_cpp.eval.config import Config
from scope_cpp.eval.folder import RunFolder
from scope_cpp.eval.metrics import Record
from scope_cpp.eval.record import Prediction


@dataclass(frozen=True)
class Result:
    """What came of a run, or of the part of it that there is.

    Attributes
    ----------
    folder, config
    scorer
        The report's.
    records
        See `scope_cpp.eval.metrics`.
    n_finished, n_all
        Samples with an output, and all: items times rows, those of earlier commands too.
    failed
        Samples without an output.
    interrupted
        Whether it was stopped before the end of what was asked.
    """

    folder: Path
    config: Config
    scorer: str
    records: list[Record]
    n_finished: int
    n_all: int
    failed: list[Prediction]
    interrupted: bool


def read_result(path: str | Path) -> Result:
    """Return what came of the run in a folder, as its ``metrics.json`` has it.

    Raises
    ------
    UsageError
        If it is no run's folder.
    ScopeError
        If the run has no metrics yet, or the folder is damaged.
    """
    folder = RunFolder.open(path)
    metrics = folder.metrics()
    return Result(
        folder.path,
        folder.config,
        metrics["scorer"],
        metrics["rows"],
        metrics["n_finished"],
        metrics["n_all"],
        [prediction for prediction in folder.predictions() if prediction.error is not None],
        not metrics["complete"],
    )


def metrics_of(result: Result) -> dict[str, Any]:
    """Return what ``metrics.json`` holds."""
    return {
        "task": result.config["task"],
        "scorer": result.scorer,
        "seed": result.config["seed"],
        "complete": result.n_finished + len(result.failed) == result.n_all,
        "n_finished": result.n_finished,
        "n_failed": len(result.failed),
        "n_all": result.n_all,
        "rows": result.records,
    }
