"""Two runs of one task: differences over the samples that both have."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

from scope_cpp import table
from scope_cpp.errors import UsageError
from scope_cpp.eval import stats
from scope_cpp.eval.config import seeds_of
from scope_cpp.eval.folder import RunFolder
from scope_cpp.eval.metrics import Record
from scope_cpp.eval.record import Prediction
from scope_cpp.eval.task import Score, Task
from scope_cpp.eval.tasks import find
from scope_cpp.json_text import json_text
from scope_cpp.near import valid_are
from scope_cpp.printable import one_line
from scope_cpp.table import Column

Line = Callable[[str], None]

COLUMNS = (
    Column("row", "{row}"),
    Column("samples", "{n}"),
    Column("A", "{a:.4f}"),
    Column("B", "{b:.4f}"),
    Column("A less B", "{difference:+.4f}"),
    Column("95 %", "[{low:+.4f}, {high:+.4f}]"),
    Column("p", "{p:.4f}"),
)

LEGEND = """\
Of the samples that both runs finished. Brackets: a paired bootstrap over samples, 10,000 resamples.
p: how often a difference as large comes about if each sample's two outputs change places at random;
not corrected for several rows."""


@dataclass(frozen=True)
class Comparison:
    """Two runs and what separates them.

    Attributes
    ----------
    a, b
        The runs.
    scorer
    records
        ``row`` (``A's`` and ``B's`` where they differ), ``n``, ``a``, ``b``, ``difference``,
        ``low``, ``high``, ``p``; the last four are ``None`` without shared samples.
    """

    a: RunFolder
    b: RunFolder
    scorer: str
    records: list[Record]


def compare(
    a: RunFolder,
    b: RunFolder,
    warn: Line,
    *,
    scorer: str | None = None,
    rows: Sequence[str] = (),
    seed: int = 0,
) -> Comparison:
    """Compare rows of the same name, or the pairs ``A=B`` of `rows`.

    Raises
    ------
    UsageError
        If the runs can't be compared: another task, other samples, no row or sample in common.
    ScopeError
        If a folder is damaged.
    """
    _check(a, b, warn)
    task = find(a.config["task"])
    if scorer is not None and scorer not in task.scorers:
        raise UsageError(f"{task.name} has no scorer {scorer!r}{valid_are(scorer, task.scorers)}")
    scorer = scorer or task.scorers[0]
    found_a, found_b = _by_row(a), _by_row(b)
    pairs = [_pair(text, a, b, found_a, found_b) for text in rows]
    pairs = pairs or [(name, name) for name in found_a if name in found_b]
    if not pairs:
        raise UsageError(
            f"no row in common: {a.path} has {_listed(found_a)}; {b.path} has {_listed(found_b)}; "
            "name a pair (--rows A=B)"
        )
    records = [
        _record(task, scorer, one, other, found_a[one], found_b[other], seed)
        for one, other in pairs
    ]
    if not any(record["n"] for record in records):
        raise UsageError(f"{a.path} and {b.path} have finished no sample in common")
    return Comparison(a, b, scorer, records)


def render(comparison: Comparison, as_json: bool) -> str:
    """Return the comparison as Markdown, or as JSON."""
    a, b = comparison.a, comparison.b
    if as_json:
        content = {
            "a": {"folder": str(a.path), "config": a.config},
            "b": {"folder": str(b.path), "config": b.config},
            "scorer": comparison.scorer,
            "rows": comparison.records,
        }
        return json_text(content, indent=1)
    parts = (table.markdown(COLUMNS, comparison.records), LEGEND, facts(comparison))
    return "\n".join(f"{part}\n" for part in parts)


def facts(comparison: Comparison) -> str:
    """Say in a line what was compared."""
    named = (("A", comparison.a), ("B", comparison.b))
    runs = "; ".join(
        f"{letter}: {run.path} ({run.config['model']['name']}, seed {seeds_of(run.config)})"
        for letter, run in named
    )
    config = comparison.a.config
    lower = " (lower is better)" if config.get("lower_is_better") else ""
    return one_line(f"{config['task']}, scorer {comparison.scorer}{lower}; {runs}")


def _check(a: RunFolder, b: RunFolder, warn: Line) -> None:
    one, other = a.config, b.config
    if one["task"] != other["task"]:
        raise UsageError(
            f"the runs are of two tasks: {a.path} of {one['task']}, {b.path} of {other['task']}"
        )
    told = {
        "seeds": (seeds_of(one), seeds_of(other)),
        "prompt formats (--template)": (one["template"], other["template"]),
        "temperatures": (one["temp"], other["temp"]),
    }
    for name, (first, second) in told.items():
        if first != second:
            warn(f"the runs have two {name}: {first} and {second}")
    if one["model"]["sha256_of_ends"] != other["model"]["sha256_of_ends"]:
        warn(f"the runs are of two models: {one['model']['name']} and {other['model']['name']}")


def _pair(
    text: str, a: RunFolder, b: RunFolder, found_a: Collection[str], found_b: Collection[str]
) -> tuple[str, str]:
    """Return the two rows that ``A=B`` names; their names may have a = too."""
    for i, sign in enumerate(text):
        one, other = text[:i].strip(), text[i + 1 :].strip()
        if sign == "=" and one in found_a and other in found_b:
            return one, other
    raise UsageError(
        f"--rows {text!r}: write it as A=B, a row of each run: {a.path} has {_listed(found_a)}; "
        f"{b.path} has {_listed(found_b)}"
    )


def _by_row(folder: RunFolder) -> dict[str, dict[tuple[str, str], Prediction]]:
    """Predictions by row, and by item and digest; rows without any are left out."""
    found: dict[str, dict[tuple[str, str], Prediction]] = {}
    for prediction in folder.predictions():
        if prediction.error is None:
            key = prediction.item, prediction.digest
            found.setdefault(prediction.row, {})[key] = prediction
    if not found:
        raise UsageError(f"{folder.path} has finished no sample yet: let the run go on")
    return found


def _record(
    task: Task,
    scorer: str,
    name_a: str,
    name_b: str,
    a: dict[tuple[str, str], Prediction],
    b: dict[tuple[str, str], Prediction],
    seed: int,
) -> Record:
    shared = sorted(key for key in a if key in b)
    if not shared and {item for item, _ in a} & {item for item, _ in b}:
        raise UsageError(
            "the runs' samples have the same names and other contents: both need the same data and "
            "seed"
        )
    record: dict[str, Any] = dict.fromkeys(("a", "b", "difference", "low", "high", "p"))
    record |= {"row": name_a if name_a == name_b else f"{name_a} / {name_b}", "n": len(shared)}
    if not shared:
        return record
    one, other = (_sample(task, [p[key].scores[scorer] for key in shared]) for p in (a, b))
    found = stats.difference(one, other, seed)
    low, high = found.ci or (None, None)
    return record | {
        "a": stats.total(one),
        "b": stats.total(other),
        "difference": found.value,
        "low": low,
        "high": high,
        "p": stats.p_value(one, other, seed),
    }


def _sample(task: Task, scores: Sequence[Score]) -> stats.Sample:
    return stats.sample_of(task, scores)


def _listed(names: Collection[str]) -> str:
    return ", ".join(repr(name) for name in names)
