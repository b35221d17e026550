"""What fidelity came to: tables that fit a terminal, and a sentence of verdict for each budget."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from scope_cpp.eval import stats
from scope_cpp.eval.fidelity.divergence import NEGLIGIBLE, NOTHING_EVICTED, PARTS, number
from scope_cpp.eval.metrics import Record, is_full, size_of, with_series
from scope_cpp.eval.result import Result
from scope_cpp.table import Column

Line = dict[str, Any]
Drawn = tuple[list[Column], list[Line]]

_MOST_PARTS = 6
_LETTERS = 10

LEGEND = """\
KL: mean KL(full || row) in nats over the tokens after the row ran out of cells. less the best: the
paired difference to the row with the least KL, with its 95 % bootstrap interval over prompts.
worst 1%: mean over the tokens with the largest KL. same: share of the tokens for which both have
the same most likely one. NLL: by how many nats the row takes the text's token to be less likely.
x best: the largest ratio, over prompts, to the best row on that prompt; a KL below .01 counts as
.01. full: the floor, the full cache again with the other kind of attention; where its K or V is
quantized, what that costs. Second table: KL by prompt or kind of prompt, and by quarter of the
whole text (1st to 4th)."""


def tables(result: Result) -> list[Drawn]:
    """Return two tables for each budget: the measures, and the KL of the parts."""
    full, by_size = _by_size(result)
    several = len(result.config.get("seeds", ())) > 1
    found = []
    for size, records in by_size.items():
        ordered = [*sorted(records, key=_kl), *full]
        best = min(records, key=_kl, default=None)
        found.append(_measures(size, ordered, best, result.config["seed"]))
        found.append(_parts(size, ordered, several))
    return found


def verdict(result: Result) -> str:
    """Say which row is nearest to the full cache, and where the first of SCOPE's is."""
    full, by_size = _by_size(result)
    lines = [_sentence(size, records) for size, records in by_size.items() if records]
    floor = next(filter(_is_f16, full), None)
    if floor is not None:
        lines.append(
            f"The floor, the full cache with the other kind of attention, is {number(_kl(floor))} "
            f"({_same(floor)} same)."
        )
    lines += [_idle(size, records) for size, records in by_size.items()]
    return "\n".join(filter(None, lines))


def notes(result: Result) -> str:
    """Return the verdict, and what the columns mean."""
    return f"{verdict(result)}\n\n{LEGEND}"


def _by_size(result: Result) -> tuple[list[Record], dict[str, list[Record]]]:
    """Return the full cache's records, and the others by their cells; what has no sample is out."""
    records = with_series(record for record in result.records if record["score"])
    sizes: dict[str, list[Record]] = {}
    for record in records:
        if not is_full(record):
            sizes.setdefault(size_of(record), []).append(record)
    return [record for record in records if is_full(record)], sizes or {"": []}


def _measures(size: str, records: Sequence[Record], best: Record | None, seed: int) -> Drawn:
    columns = [
        Column(size or "row", "{row}"),
        Column("KL", "{kl}"),
        Column("less the best [95 %]", "{less}", always=False),
        Column("worst 1%", "{worst}"),
        Column("same", "{same}"),
        Column("NLL", "{nll}"),
        Column("x best", "{ratio}", always=False),
    ]
    bounded = [record for record in records if not is_full(record)]
    lines = []
    for record in records:
        own = record in bounded
        lines.append(
            {
                "row": str(record["series"]),
                "kl": number(_kl(record)),
                "less": _less(record, best, seed) if own and best is not None else None,
                "worst": number(_scorer(record, "worst")),
                "same": _same(record),
                "nll": number(_scorer(record, "nll"), "+"),
                "ratio": f"{_ratio(record, bounded):.2f}" if own else None,
            }
        )
    return columns, lines


def _parts(size: str, records: Sequence[Record], by_kind: bool) -> Drawn:
    """Return the KL by prompt, or by kind where there are many prompts or seeds, and by quarter."""
    keys = ("groups", "samples") if by_kind else ("samples", "groups")
    key = next((key for key in keys if _few(records, key)), "")
    names = list(dict.fromkeys(name for record in records for name in record.get(key, {})))
    columns = [Column(size or "row", "{row}")]
    columns += [Column(_cut(name), f"{{part {i}}}") for i, name in enumerate(names)]
    ordinals = ("1st", "2nd", "3rd", "4th")
    columns += [Column(th, f"{{quarter {i}}}") for i, th in enumerate(ordinals)]
    lines = []
    for record in records:
        line: Line = {"row": str(record["series"])}
        for i, name in enumerate(names):
            value = record[key].get(name)
            value = value["value"] if isinstance(value, Mapping) else value
            line[f"part {i}"] = None if value is None else number(value)
        quarters = record["quarters"] or [None] * PARTS
        for i, value in enumerate(quarters):
            line[f"quarter {i}"] = None if value is None else number(value)
        lines.append(line)
    return columns, lines


def _few(records: Sequence[Record], key: str) -> bool:
    names = {name for record in records for name in record.get(key, {})}
    return 1 < len(names) <= _MOST_PARTS


def _sentence(size: str, records: Sequence[Record]) -> str:
    if all(map(_is_idle, records)):
        return ""
    best = min(records, key=_kl)
    told = (
        f"{size}: {best['series']} is nearest to the full cache, KL {number(_kl(best))}, "
        f"{_same(best)} same"
    )
    scope = next((r for r in records if str(r["policy"]).startswith("scope-")), None)
    if scope is None or scope is best:
        return f"{told}."
    times = max(_kl(scope), NEGLIGIBLE) / max(_kl(best), NEGLIGIBLE)
    return f"{told}; {scope['series']} has {number(_kl(scope))}, {times:.1f} times that."


def _is_idle(record: Record) -> bool:
    """Whether nothing was evicted on any prompt."""
    return not is_full(record) and record["problems"] == record["n"]


def _idle(size: str, records: Sequence[Record]) -> str:
    """Say on how many prompts nothing was evicted; nothing if something was on all."""
    n = max((int(record["problems"]) for record in records), default=0)
    if not n:
        return ""
    every = max(record["n"] for record in records)
    return (
        f"{size}: {NOTHING_EVICTED} on {n} of {every} prompts, whose texts fit into the cells: "
        "give fewer cells, or a longer text (--task-option tokens=N)."
    )


def _is_f16(record: Record) -> bool:
    return bool(record["type_k"] == record["type_v"] == "f16")


def _kl(record: Record) -> float:
    return float(_scorer(record, "kl"))


def _scorer(record: Record, name: str) -> float:
    """Return a record's value by a scorer, the report's or another."""
    found = record["scorers"].get(name, record["score"])
    return float(found["value"])


def _same(record: Record) -> str:
    return f"{1 - _scorer(record, 'disagree'):.1%}"


def _less(record: Record, best: Record, seed: int) -> str | None:
    """Return the paired difference to the best row, over the prompts that both have."""
    if _is_idle(record):
        return NOTHING_EVICTED
    if record is best:
        return None
    shared = [name for name in record["samples"] if name in best["samples"]]
    one, other = (
        stats.Shares(np.array([r["samples"][name] for name in shared]), np.ones(len(shared)))
        for r in (record, best)
    )
    if not shared:
        return None
    found = stats.difference(one, other, seed)
    spread = "" if found.ci is None else " [{}, {}]".format(*(number(x, "+") for x in found.ci))
    return number(found.value, "+") + spread


def _ratio(record: Record, rows: Sequence[Record]) -> float:
    """Return the largest ratio of a row's KL to the best one's, over prompts."""
    ratios = []
    for name, value in record["samples"].items():
        best = min(row["samples"][name] for row in rows if name in row["samples"])
        ratios.append(max(value, NEGLIGIBLE) / max(best, NEGLIGIBLE))
    return max(ratios)


def _cut(name: str) -> str:
    return name if len(name) <= _LETTERS else f"{name[: _LETTERS - 1]}…"
