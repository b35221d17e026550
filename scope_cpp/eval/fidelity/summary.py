"""Several runs in one table: which row holds over all models, prompts and budgets.

A case is a prompt on a model at a budget. A row is one fixed setting, whatever its cells.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from scope_cpp import table
from scope_cpp.errors import UsageError
from scope_cpp.eval.fidelity.divergence import NEGLIGIBLE, number
from scope_cpp.eval.metrics import is_full, size_of, with_series
from scope_cpp.eval.result import Result
from scope_cpp.json_text import json_text
from scope_cpp.table import Column

Case = tuple[str, str, str]

COLUMNS = (
    Column("row", "{row}"),
    Column("cases", "{cases}"),
    Column("mean KL", "{mean}"),
    Column("x best", "{ratio:.2f}"),
    Column("worst", "{worst:.2f}"),
    Column("on", "{where}"),
)

LEGEND = """\
A case is a prompt on a model at a budget. x best: the geometric mean, over cases, of the ratio to
the best row of the case, a KL below .01 counting as .01. worst: the largest of these ratios."""


def summary(results: Sequence[Result]) -> list[dict[str, Any]]:
    """Return a record for each row: those with all cases first, the smallest mean first.

    Raises
    ------
    UsageError
        If one of the runs is of another task, or they have no bounded row.
    """
    found = _by_row(results)
    if not found:
        raise UsageError("the runs have no bounded row that finished a sample: let them go on")
    best: dict[Case, float] = {}
    for values in found.values():
        for case, value in values.items():
            best[case] = min(value, best.get(case, math.inf))
    records = [_record(name, values, best) for name, values in found.items()]
    return sorted(records, key=lambda record: (-record["cases"], record["mean"]))


def render(results: Sequence[Result], as_json: bool) -> str:
    """Return the summary as JSON, or as a table in Markdown."""
    records = summary(results)
    if as_json:
        return json_text({"runs": [str(r.folder) for r in results], "rows": records}, indent=1)
    return f"{table.markdown(COLUMNS, shown(records))}\n\n{LEGEND}\n"


def shown(records: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the records as `COLUMNS` shows them."""
    return [
        {**r, "mean": number(r["mean"]), "where": ", ".join(r["where"]) if r["worst"] > 1 else ""}
        for r in records
    ]


def _by_row(results: Sequence[Result]) -> dict[str, dict[Case, float]]:
    """Return the KL of every case, by row; of a case that several runs have the last."""
    found: dict[str, dict[Case, float]] = {}
    for result in results:
        if not result.config.get("compares"):
            raise UsageError(
                f"{result.folder} is a run of {result.config['task']}: several runs are summed up "
                "for fidelity only; name one folder"
            )
        model = Path(result.config["model"]["name"]).stem
        for record in with_series(r for r in result.records if r["score"] and not is_full(r)):
            for prompt, value in record["samples"].items():
                found.setdefault(record["series"], {})[model, prompt, size_of(record)] = value
    return found


def _record(name: str, values: Mapping[Case, float], best: Mapping[Case, float]) -> dict[str, Any]:
    ratios = {c: max(v, NEGLIGIBLE) / max(best[c], NEGLIGIBLE) for c, v in values.items()}
    where = max(ratios, key=lambda case: ratios[case])
    return {
        "row": name,
        "cases": len(values),
        "mean": math.fsum(values.values()) / len(values),
        "ratio": math.exp(math.fsum(map(math.log, ratios.values())) / len(ratios)),
        "worst": ratios[where],
        "where": list(where),
    }
