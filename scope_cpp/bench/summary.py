"""From blocks to medians, spreads and ratios: pure functions of what the rows measured."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from scope_cpp.bench.run import Outcome

MIB = 2**20


def block_ms(block: dict[str, Any]) -> float:
    """Milliseconds of a step, the mean over a block."""
    return 1e3 * statistics.fmean(block["seconds"])


def relative_iqr(values: Sequence[float]) -> float:
    """Distance of the quartiles, as a share of the median; 0 for a single value."""
    if len(values) < 2:
        return 0.0
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return (high - low) / middle if middle else 0.0


def ratios(mine: Sequence[dict[str, Any]], base: Sequence[dict[str, Any]]) -> list[float]:
    """Return the times of blocks over those of the base's blocks of the same rounds."""
    by_round = {block["round"]: block_ms(block) for block in base}
    return [
        block_ms(block) / by_round[block["round"]] for block in mine if by_round.get(block["round"])
    ]


def find_full(of: Outcome, outcomes: Sequence[Outcome]) -> Outcome | None:
    """Return the full cache at the row's depth with the same attention path."""
    return next((item for item in _full(of, outcomes) if item.row.flash == of.row.flash), None)


def find_fastest(of: Outcome, outcomes: Sequence[Outcome]) -> Outcome | None:
    """Return the faster one of the full caches at the row's depth."""
    return min(_full(of, outcomes), key=_median_ms, default=None)


def find_same(of: Outcome, outcomes: Sequence[Outcome]) -> Outcome | None:
    """Return the full cache with as many cells and the same attention path."""
    for item in outcomes:
        same = item.row.test == of.row.test and item.row.flash == of.row.flash
        if item.row.role == "same" and item.measured and same and _cells(item) == _cells(of):
            return item
    return None


def find_one(of: Outcome, outcomes: Sequence[Outcome]) -> Outcome | None:
    """Return the row that writes one text alone, and is else the same; on the faster path."""
    row = of.row
    if row.n_rows == 1:
        return None
    alone = replace(row, n_rows=1, cells=row.cells // row.n_rows)
    found = [
        item for item in outcomes if replace(item.row, flash=row.flash) == alone and item.measured
    ]
    return min(found, key=_median_ms, default=None)


def find_in_kv(of: Outcome, outcomes: Sequence[Outcome]) -> Outcome | None:
    """Return the faster full cache of as many texts as have room in the row's cells; at least one.

    Of the row's own kind: written at once.
    """
    row = of.row
    if row.test != "parallel" or row.policy == "full":
        return None
    wanted = "full", row.depth, max(1, row.full_rows)
    full = [
        item
        for item in outcomes
        if (item.row.policy, item.row.depth, item.row.n_rows) == wanted and item.measured
    ]
    return min(full, key=_median_ms, default=None)


def record(of: Outcome, outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Return a row's settings and numbers; what does not apply or was not measured is None."""
    numbers = _numbers(of) if of.measured else {}
    compared = _compared(of, outcomes) if of.measured else {}
    row = of.row
    return {
        "test_kind": row.test,
        "test": row.measures,
        "role": row.role,
        "policy": row.label,
        "prefill": row.prefill if row.bounded else None,
        "granularity": row.granularity if row.bounded else None,
        "fa": row.flash,
        "n_prompt": row.n_prompt,
        "depth": row.depth,
        "fill": row.fill,
        "library": _library(of),
        "budget": row.cells,
        "n_rows": row.n_rows if row.test == "parallel" else None,
        "full_rows": row.full_rows if row.test == "parallel" else None,
        "room": row.full_cells * row.n_rows / row.cells if row.test == "parallel" else None,
        "error": of.error,
        **dict.fromkeys(_NUMBERS),
        **dict.fromkeys(_COMPARED),
        **numbers,
        **compared,
    }


_NUMBERS = (
    "repetitions",
    "cells_used",
    "cells_allocated",
    "kv_mib",
    "memory_mib",
    "peak_rss_mib",
    "anonymous_mib",
    "attention_loss",
    "fits",
    "selections_min",
    "selections_max",
    "tokens_per_second",
    "tokens_per_second_sd",
    "ms",
    "ms_min",
    "ms_max",
    "relative_iqr",
    "select_ms",
    "move_ms",
    "python_ms",
)
_BASES = {
    "full": find_full,
    "fastest": find_fastest,
    "same": find_same,
    "one": find_one,
    "kv": find_in_kv,
}
_SAVED = {"peak_rss_saved_mib": "peak_rss", "anonymous_saved_mib": "anonymous_rss"}
_COMPARED = (
    *(f"vs_{base}{what}" for base in _BASES for what in ("", "_min", "_max", "_row")),
    "kv_of_full",
    "kv_saved_mib",
    *_SAVED,
)


def _full(of: Outcome, outcomes: Sequence[Outcome]) -> list[Outcome]:
    return [
        item
        for item in outcomes
        if item.row.role == "full"
        and item.measured
        and (item.row.test, item.row.depth) == (of.row.test, of.row.depth)
    ]


def _cells(of: Outcome) -> int:
    """Cells in use while a step computes; a conversation's are known once it has begun."""
    row = of.row
    if row.test == "turn" and row.bounded:
        return int(of.facts["cells_before"] + of.facts["turn_tokens"])
    return row.cells


def _median_ms(of: Outcome) -> float:
    return statistics.median(map(block_ms, of.blocks))


def _library(of: Outcome) -> str | None:
    """Whose libllama a row ran on."""
    if not of.facts:
        return None
    if not of.facts["has_hooks"]:
        return "stock"
    return "scope-cpp" if of.row.bounded else "scope-cpp, hooks off"


def _numbers(of: Outcome) -> dict[str, Any]:
    blocks, row = of.blocks, of.row
    times = [block_ms(block) for block in blocks]
    tokens = row.n_read if row.test in ("prompt", "turn") else row.n_rows
    tokens = of.facts.get("turn_tokens", tokens)
    speeds = [1e3 * tokens / ms for ms in times]
    n_steps = sum(len(block["seconds"]) for block in blocks)
    selections = [int(sum(block["selections"])) for block in blocks if "selections" in block]
    return {
        "repetitions": len(blocks),
        "cells_used": blocks[-1]["cells_used"],
        "cells_allocated": of.facts["cells_allocated"],
        "kv_mib": of.facts["kv_mib"],
        "memory_mib": blocks[-1].get("memory_mib"),
        "peak_rss_mib": _mib(blocks, "peak_rss"),
        "anonymous_mib": _mib(blocks, "anonymous_rss"),
        "attention_loss": blocks[-1]["attention_loss"],
        "fits": blocks[-1].get("fits"),
        "selections_min": min(selections, default=None),
        "selections_max": max(selections, default=None),
        "tokens_per_second": statistics.fmean(speeds),
        "tokens_per_second_sd": statistics.stdev(speeds) if len(speeds) > 1 else 0.0,
        "ms": statistics.median(times),
        "ms_min": min(times),
        "ms_max": max(times),
        "relative_iqr": relative_iqr(times),
        "select_ms": _ms(blocks, n_steps, "score_seconds", "select_seconds"),
        "move_ms": _ms(blocks, n_steps, "move_seconds"),
        "python_ms": python_ms(blocks),
    }


def python_ms(blocks: Sequence[dict[str, Any]]) -> float | None:
    """Median of the milliseconds that a step spends outside of native calls.

    Steps with a selection do not count: what NumPy takes there is a column of its own. None if
    there is no other step.
    """
    shares = []
    for block in blocks:
        selections = block.get("selections") or [0] * len(block["seconds"])
        steps = zip(block["seconds"], block["native_seconds"], selections, strict=True)
        shares += [1e3 * (whole - native) for whole, native, selected in steps if not selected]
    return statistics.median(shares) if shares else None


def _compared(of: Outcome, outcomes: Sequence[Outcome]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, find in _BASES.items():
        base = find(of, outcomes)
        if base is None or base is of:
            continue
        share = base.row.n_rows / of.row.n_rows
        values = [share * ratio for ratio in ratios(of.blocks, base.blocks)]
        if not values:
            continue
        found[f"vs_{key}"] = statistics.median(values)
        found[f"vs_{key}_min"], found[f"vs_{key}_max"] = min(values), max(values)
        found[f"vs_{key}_row"] = f"{base.row.label}, fa {base.row.flash}, {base.row.measures}"
    found.update(_saved(of, find_full(of, outcomes)))
    return found


def _saved(of: Outcome, full: Outcome | None) -> dict[str, float]:
    """Return what memory a row takes of the full cache at its depth, and what it saves."""
    found: dict[str, float] = {}
    if of.row.test not in ("gen", "memory") or full is None or full is of:
        return found
    mine, theirs = of.facts["kv_mib"], full.facts["kv_mib"]
    if mine and theirs:
        found["kv_of_full"], found["kv_saved_mib"] = mine / theirs, theirs - mine
    for key, measured in _SAVED.items():
        mine, theirs = _mib(of.blocks, measured), _mib(full.blocks, measured)
        if mine is not None and theirs is not None:
            found[key] = theirs - mine
    return found


def _mib(blocks: Sequence[dict[str, Any]], key: str) -> float | None:
    values = [block[key] for block in blocks if block[key] is not None]
    return max(values) / MIB if values else None


def _ms(blocks: Sequence[dict[str, Any]], n_steps: int, *keys: str) -> float | None:
    """Return the milliseconds a step of what the cache counts; None where it counts nothing."""
    if not all(key in block for block in blocks for key in keys):
        return None
    return 1e3 * sum(sum(block[key]) for block in blocks for key in keys) / n_steps
