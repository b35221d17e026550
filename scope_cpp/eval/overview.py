"""A run in one table, as documents have it: a line for each row, columns for each budget."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from scope_cpp import table
from scope_cpp.errors import ScopeError
from scope_cpp.eval.metrics import Record, is_full, size_of, with_series
from scope_cpp.eval.report import MOST_GROUPS, facts, shown
from scope_cpp.eval.result import Result
from scope_cpp.table import Column

LEGEND = "Brackets: 95 % bootstrap intervals over samples, 10,000 resamples."

_NONE = "–"

Line = dict[str, Any]
Text = Callable[[Record], str]
Drawn = tuple[list[Column], list[Line]]


def tables(result: Result) -> list[Drawn]:
    """Return the tables, columns and records: the scores, and those of each seed if it has several.

    Raises
    ------
    ScopeError
        If no sample is finished.
    """
    records = with_series(record for record in result.records if record["score"])
    if not records:
        raise ScopeError(f"{result.folder} has finished no sample yet: let the run go on")
    if result.config.get("compares"):
        return shown(result)[0]
    groups, seeds = _names(records, "groups"), _names(records, "seeds")
    scores: dict[str, Text] = {"mean [95 %]": _score}
    if 1 < len(groups) <= MOST_GROUPS:
        scores = {" / ".join(groups): _each("groups", groups), **scores}
    elif any(record["quarters"] for record in records):
        scores = {**scores, "quarters": _quarters}
    found = [_table(records, scores)]
    if seeds:
        found.append(_table(records, {f"seed {' / '.join(seeds)}": _each("seeds", seeds)}))
    return found


def markdown(result: Result) -> str:
    """Return the command of a run, its tables, and what was run."""
    commands = [result.config["command"], *result.config.get("later_commands", ())]
    parts = ["\n".join(f"    {shlex.join(command)}" for command in commands)]
    parts += [table.markdown(*drawn) for drawn in tables(result)]
    return "\n".join(f"{part}\n" for part in (*parts, notes(result)))


def notes(result: Result) -> str:
    """Say what the columns mean, what was run, and what of it is not there."""
    most: dict[str, int] = {}
    for record in with_series(record for record in result.records if record["score"]):
        size = record["series"] if is_full(record) else size_of(record)
        most[size] = max(most.get(size, 0), record["cells_peak"])
    cells = ", ".join(f"{n:,} ({size})" for size, n in most.items())
    legend = shown(result)[1] if result.config.get("compares") else LEGEND
    lines = [f"{legend} Cells, the most that llama.cpp counted: {cells}.", facts(result)]
    if result.interrupted:
        lines.append(f"Unfinished: {result.n_finished} of {result.n_all} samples.")
    if result.failed:
        lines.append(f"Failed: {len(result.failed)} of {result.n_all} samples.")
    return "\n".join(lines)


def _table(records: Sequence[Record], shown: Mapping[str, Text]) -> Drawn:
    """Return a table of what is `shown` at every size, by title."""
    sizes = list(dict.fromkeys(size_of(record) for record in records if not is_full(record))) or [
        ""
    ]
    columns = [Column("row", "{row}")]
    for size in sizes:
        titles = [f"{size}: {title}" if size and not i else title for i, title in enumerate(shown)]
        columns += [Column(title, f"{{text {len(columns) + i}}}") for i, title in enumerate(titles)]
    lines: dict[str, Line] = {}
    for record in records:
        name = record["series"]
        line = lines.setdefault(name, {column.key: None for column in columns} | {"row": name})
        at = 0 if is_full(record) else sizes.index(size_of(record))
        texts = (text(record) for text in shown.values())
        line.update({f"text {1 + at * len(shown) + i}": text for i, text in enumerate(texts)})
    return columns, list(lines.values())


def _score(record: Record) -> str:
    value, ci = record["score"]["value"], record["score"]["ci"]
    return _number(value) + ("" if ci is None else f" [{', '.join(map(_number, ci))}]")


def _quarters(record: Record) -> str:
    return " ".join(map(_number, record["quarters"] or ()))


def _each(key: str, names: Sequence[str]) -> Text:
    """Return what gives the scores of these parts of a record."""

    def text(record: Record) -> str:
        found = record.get(key, {})
        return " / ".join(_number(found[n]["value"]) if n in found else _NONE for n in names)

    return text


def _names(records: Sequence[Record], key: str) -> list[str]:
    """Return the names of the parts of records, each once."""
    return list(dict.fromkeys(name for record in records for name in record.get(key, {})))


def _number(value: float) -> str:
    """Return three digits, without the zero before them."""
    return f"{value:.3f}".removeprefix("0")
