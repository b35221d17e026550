"""A file of outputs by one scorer, and how far the task's other scorers are from it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

from scope_cpp.errors import UsageError
from scope_cpp.eval import stats
from scope_cpp.eval.folder import RunFolder
from scope_cpp.eval.metrics import QUARTERS, quarter
from scope_cpp.eval.scorers.files import FileScore, score_file
from scope_cpp.eval.tasks import find
from scope_cpp.json_text import json_text
from scope_cpp.printable import harmless

Line = Callable[[str], None]

_SHOWN = 20  # problems that are listed

LEGEND = """\
Brackets: 95 % bootstrap intervals over outputs, 10,000 resamples; of a difference paired ones."""


def score(
    path: Path,
    warn: Line,
    *,
    task: str | None = None,
    scorer: str | None = None,
    data: Path | None = None,
    options: tuple[str, ...] = (),
    seed: int = 0,
) -> dict[str, Any]:
    """Score a file; parameters and errors as of `score_file`.

    Returns
    -------
    dict
        The fields of `FileScore` but its sample, ``percent``, ``ci`` (of ``total``; ``None`` for
        one output), and ``others``: of each other scorer of the task ``total``, ``percent``,
        ``ci``, ``difference`` (to this one), ``difference_ci`` and ``differing`` (ids of outputs
        that it gives another score). Intervals are drawn by `seed`.
    """
    if RunFolder.exists(path):
        raise UsageError(
            f"{path} is a run's folder: its command again, with another --scorer, scores it anew "
            "without running anything"
        )
    found = score_file(path, task, scorer, data, warn, options, seed)
    others = {}
    for name in find(found.task).scorers:
        if name != found.scorer:
            other = score_file(path, found.task, name, data, lambda line: None, options, seed)
            others[name] = {
                "total": other.total,
                "percent": other.percent,
                "ci": stats.estimate(other.sample, seed).ci,
                "difference": other.total - found.total,
                "difference_ci": stats.difference(other.sample, found.sample, seed).ci,
                "differing": _differing(found, other),
            }
    plain = {item.name: getattr(found, item.name) for item in fields(found)}
    del plain["sample"]
    ci = stats.estimate(found.sample, seed).ci
    return {"file": str(path), **plain, "percent": found.percent, "ci": ci, "others": others}


def _differing(one: FileScore, other: FileScore) -> list[str]:
    return [name for name, value in one.by_item.items() if other.by_item.get(name) != value]


def render(found: dict[str, Any], as_json: bool) -> str:
    """Return a score as JSON, or as lines for people."""
    if as_json:
        return json_text(found, indent=1)
    lines = [
        f"{found['file']}: {found['task']}, {found['n']} outputs",
        f"{found['scorer']}: {found['percent']} %{_brackets(found['ci'])}",
    ]
    for name, other in found["others"].items():
        lines.append(
            f"{name}: {other['percent']} %{_brackets(other['ci'])} "
            f"({100 * other['difference']:+.4f}{_brackets(other['difference_ci'], '+')} against "
            f"{found['scorer']}; {len(other['differing'])} outputs differ)"
        )
    if found["ci"] is not None:
        lines.append(LEGEND)
    n = len(found["by_question"])
    if n >= QUARTERS:
        parts = [[v for i, v in enumerate(found["by_question"]) if quarter(i, n) == q]
                 for q in range(QUARTERS)]  # fmt: skip
        shares = ", ".join(f"{sum(part) / len(part):.3f}" for part in parts)
        lines.append(f"by quarter of the questions: {shares}")
    if found["missing"]:
        lines.append(f"{len(found['missing'])} samples have no output: they count as wrong")
    problems = found["problems"]
    lines += problems[:_SHOWN]
    if len(problems) > _SHOWN:
        lines.append(f"... and {len(problems) - _SHOWN} more problems (--json lists all)")
    return "".join(f"{harmless(line)}\n" for line in lines)


def _brackets(ci: stats.Interval | None, sign: str = "") -> str:
    """Return an interval in per cent, after a blank; nothing if there is none."""
    if ci is None:
        return ""
    low, high = (100 * bound for bound in ci)
    return f" [{low:{sign}.2f}, {high:{sign}.2f}]"
