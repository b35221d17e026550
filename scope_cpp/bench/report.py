"""A report as a short table, Markdown, CSV, JSON or JSON lines."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from itertools import groupby
from typing import Any

from scope_cpp import table
from scope_cpp.bench import overview
from scope_cpp.bench.measure import Report
from scope_cpp.engine.budget import format_bytes
from scope_cpp.json_text import json_text
from scope_cpp.table import Column

FORMATS = ("table", "md", "csv", "json", "jsonl")

Record = dict[str, Any]


# llama-bench's columns and order first
COLUMNS = (
    Column("model", "{model}"),
    Column("size", "{size}"),
    Column("params", "{params}"),
    Column("backend", "{backend}"),
    Column("threads", "{threads}"),
    Column("type_k", "{type_k}"),
    Column("type_v", "{type_v}"),
    Column("fa", "{fa}"),
    Column("library", "{library}"),
    Column("policy", "{policy}"),
    Column("prefill", "{prefill}", always=False),
    Column("granularity", "{granularity}", always=False),
    Column("budget", "{budget}"),
    Column("test", "{test}"),
    Column("t/s", "{tokens_per_second:.2f} ± {tokens_per_second_sd:.2f}", instead="error"),
    Column("ms", "{ms:.2f}"),
    Column("min–max", "{ms_min:.2f}–{ms_max:.2f}"),
    Column("IQR", "{relative_iqr:.1%}"),
    Column("vs full", "{vs_full:.3f} ({vs_full_min:.3f}–{vs_full_max:.3f})", always=False),
    Column(
        "vs faster full",
        "{vs_fastest:.3f} ({vs_fastest_min:.3f}–{vs_fastest_max:.3f})",
        always=False,
    ),
    Column("vs same cells", "{vs_same:.3f} ({vs_same_min:.3f}–{vs_same_max:.3f})", always=False),
    Column("vs one", "{vs_one:.3f} ({vs_one_min:.3f}–{vs_one_max:.3f})", always=False),
    Column("vs full in this KV", "{vs_kv:.3f} ({vs_kv_min:.3f}–{vs_kv_max:.3f})", always=False),
    Column("texts", "{n_rows}", always=False),
    Column("full texts in this KV", "{full_rows}", always=False),
    Column("room", "{room:.1f}×", always=False),
    Column("cells", "{cells_used}"),
    Column("KV MiB", "{kv_mib:.2f}"),
    Column("KV of full", "{kv_of_full:.1%}", always=False),
    Column("KV saved MiB", "{kv_saved_mib:.2f}", always=False),
    Column("with buffers MiB", "{memory_mib:.2f}", always=False),
    Column("peak RSS MiB", "{peak_rss_mib:.1f}", always=False),
    Column("peak saved MiB", "{peak_rss_saved_mib:.1f}", always=False),
    Column("anon MiB", "{anonymous_mib:.1f}", always=False),
    Column("anon saved MiB", "{anonymous_saved_mib:.1f}", always=False),
    Column("attention loss", "{attention_loss:.2%}", always=False),
    Column("selections", "{selections_min}–{selections_max}", always=False),
    Column("select ms", "{select_ms:.2f}"),
    Column("moves ms", "{move_ms:.2f}"),
    Column("Python ms", "{python_ms:.3f}"),
)

LEGEND = """\
ms: of a token (of one of each text, where several are written at once), or of a whole reading where
the test is pp or a turn; the median of the repetitions' means, their minimum and maximum, and the
distance of their quartiles. "vs": the ratio of times, repetition by repetition, the median
(minimum–maximum): 0.25 is four times as fast. "full": the full cache at the same depth with the
same attention path; "faster full": the faster of the two; "same cells": the full cache of as many
cells. "one", "full in this KV": the ratio of times for one token, against one text alone, and
against as many texts of the full cache as there is room for in these cells, to their ends (one,
where there is room for none), each with its faster attention path. room: how many times as many
texts. cells: counted by llama.cpp at the end. KV: as llama.cpp reports it. with
buffers: KV and every buffer that belongs to it, without the weights. anon: what is resident
and maps no file, so without mapped weights. selections: in a repetition. select, moves: of choosing
(scores and NumPy) and of copying rows, a step. Python: of a step without a selection, outside of
native calls."""


def render(report: Report, form: str, command: Sequence[str]) -> str:
    """Return the report in one of `FORMATS`."""
    writers: dict[str, Callable[[Report, Sequence[str]], str]] = {
        "table": lambda report, command: overview.render(report.records(), _refused(report)),
        "md": markdown,
        "csv": comma_separated,
        "json": whole,
        "jsonl": lines,
    }
    return writers[form](report, command)


def _refused(report: Report) -> str:
    """Say why the model can't be bounded; empty where it can."""
    model = report.model
    return f"{model['title']} can't be bounded: {model['refusal']}" if model["refusal"] else ""


def markdown(report: Report, command: Sequence[str]) -> str:
    """Return a table for each test, and what the columns mean."""
    parts = []
    for _, group in groupby(_flat(report), key=lambda record: record["test_kind"]):
        parts.append(table.markdown(COLUMNS, list(group)))
    facts = report.environment
    parts.append(LEGEND)
    parts.append(
        f"{facts['cpu']}, {facts['threads']} threads of {facts['cores']} cores; OMP_WAIT_POLICY="
        f"{facts['variables'].get('OMP_WAIT_POLICY', 'unset')}; llama.cpp "
        f"{facts['llama_cpp_commit']}, ABI {facts['abi']}; {' '.join(command)}"
    )
    return "\n".join(f"{part}\n" for part in parts)


def comma_separated(report: Report, command: Sequence[str]) -> str:
    """Return one line for each row, with all columns in full precision."""
    records = _flat(report)
    out = io.StringIO()
    writer = csv.DictWriter(out, list(records[0]) if records else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    return out.getvalue()


def whole(report: Report, command: Sequence[str]) -> str:
    """Return everything, with the times of all steps."""
    content = {**_head(report, command), "rows": _rows(report)}
    return json_text(content, indent=1)


def lines(report: Report, command: Sequence[str]) -> str:
    """Return everything: a line about the run, then one for each row."""
    return "".join(json_text(item) for item in (_head(report, command), *_rows(report)))


def _head(report: Report, command: Sequence[str]) -> Record:
    return {
        "command": list(command),
        "environment": report.environment,
        "model": report.model,
        "compute": report.compute,
        "interrupted": report.interrupted,
    }


def _rows(report: Report) -> list[Record]:
    return [
        {
            **record,
            "settings": outcome.row.to_json(),
            "facts": outcome.facts,
            "warm_up": outcome.warm_up,
            "blocks": outcome.blocks,
        }
        for record, outcome in zip(_flat(report), report.outcomes, strict=True)
    ]


def _flat(report: Report) -> list[Record]:
    model, facts, compute = report.model, report.environment, report.compute
    same = {
        "model": model["desc"],
        "size": format_bytes(model["size_bytes"]),
        "params": _count(model["n_params"]),
        "backend": facts["backend"],
        "threads": facts["threads"],
        "type_k": compute["type_k"],
        "type_v": compute["type_v"],
    }
    return [{**same, **record} for record in report.records()]


def _count(n: int) -> str:
    """Show a number of weights as llama-bench does."""
    return f"{n / 1e9:.2f} B" if n >= 1e9 else f"{n / 1e6:.2f} M"
