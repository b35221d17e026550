"""The short form of a report: six columns, and a sentence for each bounded row worth saying.

A bounded cache is compared with the *faster* full cache at the same depth, whichever attention that
has; a sentence says so where only one of the two was measured.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

from scope_cpp.bench.request import FLASH
from scope_cpp.engine.context_params import CELLS_MULTIPLE
from scope_cpp.table import Column, plain

Record = dict[str, Any]

_WIDTH = 80
_LONGEST = 29  # letters of a row's name: the default policy with its option
_SETTINGS = ("policy", "prefill", "granularity", "n_prompt", "depth", "n_rows", "budget")

COLUMNS = (
    Column("cache", "{cache}"),
    Column("fa", "{fa}"),
    Column("at", "{at}"),
    Column("t/s", "{tokens_per_second:.1f}", instead="failed"),
    Column("speed", "{speed:.2f}x"),
    Column("KV MiB", "{kv_mib:.1f}"),
)

LEGEND = (
    "at: position of the token that is generated, or tokens of the prompt that is "
    "read; fa: flash attention; speed: beside the faster full cache. "
    "--wide shows all columns."
)


def render(records: Sequence[Record], refusal: str = "") -> str:
    """Return the tables of all tests, the sentences, and what the columns mean.

    Parameters
    ----------
    records
    refusal
        Why the model can't be bounded, in words; then no row is compared with another.
    """
    parts = []
    if refusal:
        records = [{**record, "fits": True} for record in records]
    for _, group in groupby(records, key=lambda record: record["test_kind"]):
        rows = [record for record in group if record["role"] in ("full", "bounded")]
        parts.append(plain(COLUMNS, [_shown(record) for record in rows]))
    said = [f"{refusal}; there is nothing to compare."] if refusal else verdicts(records)
    parts.append("".join(f"{_wrapped(line)}\n" for line in said))
    parts.append(_wrapped(LEGEND) + "\n")
    return "\n".join(part for part in parts if part)


def _wrapped(text: str) -> str:
    return textwrap.fill(text, _WIDTH, break_long_words=False, break_on_hyphens=False)


def verdicts(records: Sequence[Record]) -> Iterator[str]:
    """Yield a sentence for each bounded configuration, on its faster attention path."""
    bounded = [r for r in records if r["role"] == "bounded" and not _is_full(r)]
    best: dict[tuple[Any, ...], Record] = {}
    for record in bounded:
        key = (record["test_kind"], *(record[name] for name in _SETTINGS))
        if record["ms"] is not None and (key not in best or record["ms"] < best[key]["ms"]):
            best[key] = record
    if records and not bounded:
        yield "No bounded cache was measured, so nothing is compared with the full cache."
    for record in best.values():
        text = _verdict(record, records)
        if text:
            yield f"{_name(record)} {text}."


def _verdict(record: Record, records: Sequence[Record]) -> str:
    kind = record["test_kind"]
    if kind == "parallel":
        return _of_texts(record)
    if kind not in ("gen", "memory", "prompt"):
        return ""
    where = f"at {record['depth']:,} tokens"
    if kind == "prompt":
        where = f"reading {record['n_prompt']:,} tokens"
    if _fits(record):
        return f"{where}: everything fits into {record['budget']:,} cells, nothing to compare"
    if record["vs_fastest"] is None:
        return f"{where}: no full cache was measured to compare with"
    text = f"{where}: {_speed(record, 'vs_fastest')}"
    if record["kv_of_full"] is not None:
        text += f", {record['kv_of_full']:.0%} of its KV memory".replace("%", " %")
        if record["kv_of_full"] == 1 and record["budget"] < record["depth"]:
            text += f" (llama.cpp allocates cells in steps of {CELLS_MULTIPLE}: both get as many)"
    return text + _missing(record, records)


def _of_texts(record: Record) -> str:
    if record["vs_kv"] is None or record["n_rows"] == 1:
        return ""
    if _fits(record):
        return (
            f"with {record['n_rows']} texts at once: all of them fit into the same memory with the "
            "full cache, nothing to compare"
        )
    room = f"the {record['full_rows']} that the same memory has room for"
    if not record["full_rows"]:
        room = "one, for which the same memory has no room"
    return f"with {record['n_rows']} texts at once: {_speed(record, 'vs_kv')} with {room}"


def _speed(record: Record, key: str) -> str:
    """Say how much faster it is; not, where the repetitions do not agree on that."""
    ratio, low, high = (record[key + end] for end in ("", "_min", "_max"))
    if low <= 1 <= high or max(ratio, 1 / ratio) < 1.005:
        spread = f"{1 / high:.2f}x to {1 / low:.2f}x"
        return f"neither clearly faster nor slower than the full cache ({spread})"
    if ratio < 1:
        return f"{_times(1 / ratio)} faster than the full cache"
    return f"{_times(ratio)} slower than the full cache"


def _times(factor: float) -> str:
    """Show a factor above 1; not as 1.0, which would say nothing."""
    return f"{factor:.2f}x" if factor < 1.05 else f"{factor:.1f}x"


def _fits(record: Record) -> bool:
    """Whether nothing was evicted that a full cache of the same memory would keep."""
    if record["test_kind"] == "parallel":
        return bool(record["fits"]) or record["full_rows"] >= record["n_rows"]
    return bool(record["fits"])


def _missing(record: Record, records: Sequence[Record]) -> str:
    """Say which attention path of the full cache the comparison lacks."""
    where = record["test_kind"], record["depth"]
    measured = {
        item["fa"]
        for item in records
        if item["role"] == "full"
        and item["ms"] is not None
        and (item["test_kind"], item["depth"]) == where
    }
    lacking = [flash for flash in FLASH if flash not in measured]
    if not lacking:
        return ""
    return f" (the full cache with flash attention {lacking[0]} was not measured)"


def _shown(record: Record) -> Record:
    ratio = record["vs_fastest"] if record["test_kind"] != "parallel" else record["vs_kv"]
    at = record["n_prompt"] if record["test_kind"] == "prompt" else record["depth"]
    name = _name(record)
    if len(name) > _LONGEST:
        name = name[: _LONGEST - 1] + "…"
    speed = None if ratio is None or _fits(record) or _is_full(record) else 1 / ratio
    return {
        **record,
        "cache": name,
        "at": at,
        "speed": speed,
        "failed": "failed" if record["error"] else None,
    }


def _name(record: Record) -> str:
    """Return the policy, and what is not as by default."""
    more = [record[key] for key, usual in (("prefill", "full"), ("granularity", "head"))
            if record[key] not in (None, usual)]  # fmt: skip
    rows = [f"x{record['n_rows']}"] if record["n_rows"] else []
    return " ".join([str(record["policy"]), *more, *rows])


def _is_full(record: Record) -> bool:
    return record["role"] == "full" or record["policy"] == "full"
