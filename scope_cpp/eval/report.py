"""The tables of a run: Markdown, CSV, JSON, and lines for a terminal."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from typing import Any

from scope_cpp import table
from scope_cpp.engine.budget import format_bytes
from scope_cpp.eval.config import seeds_of
from scope_cpp.eval.fidelity import report as fidelity
from scope_cpp.eval.metrics import QUARTERS, Record
from scope_cpp.eval.result import Result, metrics_of
from scope_cpp.json_text import json_text
from scope_cpp.printable import one_line
from scope_cpp.table import Column

FORMATS = ("md", "csv", "json")

# more of them get a table of their own, a line each
MOST_GROUPS = 4

Flat = dict[str, Any]

COSTS = (
    Column("row", "{row}"),
    Column("cells", "{cells_peak} of {cells_budget}"),
    Column("allocated", "{cells_allocated}"),
    Column("KV cache", "{kv}"),
    Column("used at the end", "{cells_used:.0f}"),
    Column("evicted", "{evicted:.0f}"),
    Column("selections", "{selections:.0f}", always=False),
    Column("attention loss", "{attention_loss:.2%}"),
    Column("t/s", "{tokens_per_second:.0f}"),
)

LEGEND = """\
Brackets: 95 % bootstrap intervals over samples, 10,000 resamples. vs: the difference of the same
samples, SCOPE being its first row here. 1st to 4th quarter: of an output's questions. tokens: of an
output, mean. loops: outputs that end in a repetition. cells: the most that llama.cpp counted, of
the budget. KV cache: bytes that llama.cpp allocated. used, evicted, selections: of a sample, mean.
attention loss: share of the attention that fell on rows which were given up, when they were."""


def _scores(keys: Sequence[str]) -> list[Column]:
    scorers = [key for key in keys if key.startswith("scorer ")]
    return [
        Column("row", "{row}"),
        Column("samples", "{n}"),
        Column("failed", "{failed}", always=False),
        Column("score", _with_interval("score", ".3f")),
        Column("vs full", _with_interval("vs full", "+.3f"), always=False),
        Column("vs SCOPE", _with_interval("vs scope", "+.3f"), always=False),
        *(_named("by ", key, keys) for key in scorers),
    ]


def _parts(keys: Sequence[str]) -> list[Column]:
    groups = _groups(keys)
    quarters = enumerate(("1st", "2nd", "3rd", "4th"), start=1)
    return [
        Column("row", "{row}"),
        *(_named("", key, keys) for key in groups if 1 < len(groups) <= MOST_GROUPS),
        *(_named("seed ", key, keys) for key in keys if key.startswith("seed ")),
        *(_named("", key, keys) for key in keys if key.startswith("kind ")),
        *(Column(f"{th} quarter", f"{{quarter {i}:.3f}}", always=False) for i, th in quarters),
        Column("tokens", "{tokens:.0f}"),
        Column("loops", "{loops:.0%}", always=False),
        Column("problems", "{problems}"),
    ]


def flat(record: Record) -> Flat:
    """Return a record of `scope_cpp.eval.metrics` with one value for each key."""
    found: Flat = {name: value for name, value in record.items() if not isinstance(value, dict)}
    found["options"] = " ".join(record["options"])
    found["failed"] = record["errors"] or None
    found["kv"] = None if record["kv_bytes"] is None else format_bytes(record["kv_bytes"])
    estimates = {
        "score": record["score"],
        "vs full": record["vs_full"],
        "vs scope": record["vs_scope"],
        **{f"group {name}": value for name, value in record["groups"].items()},
        **{f"seed {name}": value for name, value in record.get("seeds", {}).items()},
    }
    for name, value in record["scorers"].items():
        estimates[f"scorer {name}"] = value
        estimates[f"less {name}"] = value["less"]
    for name, value in estimates.items():
        low, high = (value and value["ci"]) or (None, None)
        found |= {
            name: value and value["value"],
            f"{name}_low": low,
            f"{name}_high": high,
        }
    quarters = found.pop("quarters") or [None] * QUARTERS
    found |= {f"quarter {number}": value for number, value in enumerate(quarters, start=1)}
    found |= {f"kind {name}": value for name, value in record["kinds"].items()}
    found |= {f"sample {name}": value for name, value in record.get("samples", {}).items()}
    for name in ("vs_full", "vs_scope", "groups", "seeds", "scorers", "kinds", "samples"):
        found.pop(name, None)
    return found


def flat_records(records: Sequence[Record]) -> list[Flat]:
    """Return flat records that all have the same keys."""
    found = [flat(record) for record in records]
    keys = list(dict.fromkeys(key for record in found for key in record))
    return [{key: record.get(key) for key in keys} for record in found]


def shown(result: Result) -> tuple[list[tuple[list[Column], list[Flat]]], str]:
    """Return the tables of a run in the way of its task, and what stands below them."""
    if result.config.get("compares"):
        return fidelity.tables(result), fidelity.notes(result)
    return tables(result), LEGEND


def tables(result: Result) -> list[tuple[list[Column], list[Flat]]]:
    """Return the tables, columns and records: scores, their parts, and what rows took."""
    records = flat_records(result.records)
    keys = _plain(records[0])
    drawn = [{**record, **_drawn(record)} for record in records]
    found = [
        (table.shown(columns, drawn), drawn) for columns in (_scores(keys), _parts(keys), COSTS)
    ]
    if len(_groups(keys)) > MOST_GROUPS:
        found.insert(2, _by_group(records, _groups(keys)))
    return found


def _by_group(records: Sequence[Flat], groups: Sequence[str]) -> tuple[list[Column], list[Flat]]:
    """Return a table with a line for each group and a column for each row."""
    columns = [Column("group", "{group}")]
    columns += [Column(r["row"], f"{{row {i}:.3f}}") for i, r in enumerate(records)]
    lines = [
        {"group": key.partition(" ")[2], **{f"row {i}": r[key] for i, r in enumerate(records)}}
        for key in groups
    ]
    return columns, lines


def _groups(keys: Sequence[str]) -> list[str]:
    return [key for key in keys if key.startswith("group ")]


def _with_interval(key: str, form: str) -> str:
    return f"{{{key}:{form}}} {{{key} interval}}"


def _named(prefix: str, key: str, keys: Sequence[str]) -> Column:
    """Column of a key that ends in a name from the data, which a format string might not take."""
    return Column(prefix + key.partition(" ")[2], f"{{column {keys.index(key)}:.3f}}")


def _drawn(record: Flat) -> Flat:
    """Return what only the tables need: values by number, and intervals as texts."""
    found: Flat = {f"column {number}": record[key] for number, key in enumerate(_plain(record))}
    for key, form in (("score", ".3f"), ("vs full", "+.3f"), ("vs scope", "+.3f")):
        low, high = record[f"{key}_low"], record[f"{key}_high"]
        found[f"{key} interval"] = "" if low is None else f"[{low:{form}}, {high:{form}}]"
    return found


def _plain(record: Flat) -> list[str]:
    return [key for key in record if not key.endswith(("_low", "_high"))]


def render(result: Result, form: str) -> str:
    """Return the report in one of `FORMATS`."""
    writers: dict[str, Callable[[Result], str]] = {
        "md": markdown,
        "csv": comma_separated,
        "json": whole,
    }
    return writers[form](result)


def markdown(result: Result) -> str:
    """Return the tables, what the columns mean, and what was run."""
    drawn, legend = shown(result)
    parts = [table.markdown(columns, records) for columns, records in drawn]
    return "\n".join(f"{part}\n" for part in (*parts, legend, facts(result)))


def facts(result: Result) -> str:
    """Say in a line what was run."""
    config = result.config
    model, versions = config["model"], config["versions"]
    lower = " (lower is better)" if config["lower_is_better"] else ""
    return one_line(
        f"{model['name']} ({model['desc']}), {config['task']}, samples: {config['items']['n']}, "
        f"seed {seeds_of(config)}, scorer {result.scorer}{lower}; "
        f"scope-cpp {versions['scope_cpp']}, "
        f"llama.cpp {versions['llama_cpp']}, ABI {versions['abi']}; {result.folder}"
    )


def comma_separated(result: Result) -> str:
    """Return one line for each row, with all values in full precision."""
    records = flat_records(result.records)
    out = io.StringIO()
    writer = csv.DictWriter(out, list(records[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    return out.getvalue()


def whole(result: Result) -> str:
    """Return everything."""
    failed = [{"row": p.row, "item": p.item, "error": p.error} for p in result.failed]
    content = {
        "folder": str(result.folder),
        "config": result.config,
        **metrics_of(result),
        "failed": failed,
    }
    return json_text(content, indent=1)
