"""What runs of ``scope eval`` measured, as the figures read it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

from scope_cpp.engine.budget import parse_budget
from scope_cpp.errors import UsageError
from scope_cpp.eval.config import differences
from scope_cpp.eval.folder import RunFolder
from scope_cpp.eval.metrics import Record, is_full, with_series
from scope_cpp.eval.record import Prediction
from scope_cpp.eval.tasks import find


@dataclass(frozen=True)
class Measure:
    """What a score is, and how an axis shows it.

    Attributes
    ----------
    name, unit
        Of the axis.
    part
        What a score of an output is made of, in order.
    factor
        From scores to what is shown.
    top
        Largest value that there is; ``None`` for one without an upper end.
    form
        How a terminal writes a value.
    log
        Whether a picture has a logarithmic axis.
    """

    name: str
    unit: str
    part: str
    factor: float
    top: float | None
    form: str
    log: bool = False

    @property
    def heading(self) -> str:
        """The name as a title begins with it."""
        return self.name[0].upper() + self.name[1:]

    @property
    def label(self) -> str:
        """Name and unit."""
        return f"{self.name} ({self.unit})"

    def show(self, value: float) -> str:
        """Return a value, not yet multiplied, as text."""
        return self.form.format(value * self.factor)

    def fill(self, value: float, most: float) -> float:
        """Return the length of a bar, in [0, 1]; the longest value is `most`."""
        return value * self.factor / (self.top or most * self.factor or 1)


ACCURACY = Measure("accuracy", "%", "question", 100, 100, "{:.1f}%")
DIVERGENCE = Measure("KL divergence", "nats, lower is better", "token", 1, None, "{:.4f}", log=True)
SHIFT = Measure("difference", "lower is better", "token", 1, None, "{:.4f}")
LOSS = Measure("mean loss", "nats per token, lower is better", "quarter", 1, None, "{:.3f}")


@dataclass(frozen=True)
class Run:
    """A run that is read.

    Attributes
    ----------
    path, config
        Its folder, of several the first, and `scope_cpp.eval.config`.
    records
        Of the rows that have an output, see `scope_cpp.eval.metrics`; and ``asked_budget``, a
        row's budget as it was asked for, and ``series``, what its rows at other budgets share.
    samples
        Of these rows.
    scorer
        The report's.
    complete
        Whether all samples were run.
    """

    path: Path
    config: Record
    records: list[Record]
    samples: list[Prediction]
    scorer: str
    complete: bool

    @property
    def measure(self) -> Measure:
        """What its scores are."""
        task = find(self.config["task"])
        if task.compares:
            return SHIFT if self.scorer in ("disagree", "nll") else DIVERGENCE
        return LOSS if task.lower_is_better else ACCURACY

    def positions(self, prediction: Prediction) -> Sequence[float]:
        """Return the values of an output that was finished, by position."""
        assert prediction.output is not None
        score = prediction.scores[self.scorer]
        return find(self.config["task"]).positions(prediction.output, score, self.scorer)

    def describe(self, cells: str = "") -> str:
        """Say what was run, for a title."""
        n = max(record["n"] for record in self.records)
        told = f"{n} sample{'' if n == 1 else 's'}{'' if self.complete else ', unfinished'}"
        parts = [self.config["model"]["name"], self.config["task"], told, cells]
        return ", ".join(part for part in parts if part)


def open_run(path: str) -> Run:
    """Read a run's folder.

    Raises
    ------
    UsageError
        If it is none.
    ScopeError
        If it is damaged, or the run has no metrics yet.
    """
    folder = RunFolder.open(path)
    metrics = folder.metrics()
    asked = {row["name"]: row["budget"] for row in folder.config["rows"]}
    records = [
        {**record, "asked_budget": asked[record["row"]]}
        for record in metrics["rows"]
        if record["score"] is not None
    ]
    if not records:
        raise UsageError(f"{path}: no sample has an output yet, let the run go on")
    samples = [prediction for prediction in folder.predictions() if prediction.error is None]
    return Run(
        folder.path,
        folder.config,
        with_series(records),
        samples,
        metrics["scorer"],
        metrics["complete"],
    )


def open_runs(paths: Sequence[str]) -> Run:
    """Read runs of the same samples on the same model as one; equal rows count once.

    Raises
    ------
    UsageError
        If they can't be compared, or two rows that differ have one name.
    """
    first, *others = [open_run(path) for path in paths]
    rows = {record["row"]: record for record in first.records}
    samples = list(first.samples)
    for run in others:
        _check_comparable(first, run)
        for record in run.records:
            name = _name_beside(rows, record, run)
            if name not in rows:
                rows[name] = {**record, "row": name}
                samples += [replace(p, row=name) for p in run.samples if p.row == record["row"]]
    complete = all(run.complete for run in (first, *others))
    records = with_series(list(rows.values()))
    return replace(first, records=records, samples=samples, complete=complete)


def numbered(records: Sequence[Record]) -> dict[str, int]:
    """Return a number for each series, 0 for the first full cache: what it looks like."""
    full = [record["series"] for record in records if is_full(record)][:1]
    others = dict.fromkeys(r["series"] for r in records if r["series"] not in full)
    return dict.fromkeys(full, 0) | {name: number for number, name in enumerate(others, start=1)}


def cells_of(record: Record) -> int:
    """Return what `cells_name` says, of a row."""
    if isinstance(record["beta"], str):
        return round(100 * Fraction(record["beta"]))
    if record["beta"] is not None:
        return int(record["beta"])
    asked = parse_budget(record["budget"])
    return int(asked.value if asked.kind == "cells" else record["cells_budget"])


def cells_name(records: Sequence[Record]) -> str:
    """Say what `cells_of` of these rows counts: cells beside the prompt, or in all, or a share.

    Raises
    ------
    UsageError
        If some of them have cells, and others a share of the output.
    """
    betas = [record["beta"] for record in records if not is_full(record)]
    shares = sum(isinstance(beta, str) for beta in betas)
    if 0 < shares < len(betas):
        raise UsageError(
            "some rows have numbers of cells, others shares of the output (--beta), which have no "
            "axis in common: run them apart, or choose rows (--only)"
        )
    if shares:
        return "% of the output beside the prompt"
    return "cells beside the prompt" if None not in betas else "cells"


def _check_comparable(first: Run, other: Run) -> None:
    different = differences({**first.config, "rows": []}, {**other.config, "rows": []})
    if other.scorer != first.scorer:
        different.append(f"scorer {other.scorer} instead of {first.scorer}")
    if different:
        raise UsageError(f"{other.path} can't be drawn beside {first.path}: {'; '.join(different)}")


_SIZE = ("beta", "asked_budget")
_ASKED = ("label", "policy", "prefill", "granularity", "options", "type_k", "type_v")


def _name_beside(rows: dict[str, Record], record: Record, run: Run) -> str:
    """Return a row's name, with its cells if another row has the name with other cells."""
    name = str(record["row"])
    other = rows.get(name)
    if other is None or all(record[key] == other[key] for key in (*_ASKED, *_SIZE)):
        return name
    if any(record[key] != other[key] for key in _ASKED):
        raise UsageError(f"{run.path}: its row {name!r} differs from that of the runs before it")
    return f"{name}, {cells_of(record)} cells"
