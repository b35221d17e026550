"""A file of outputs by one scorer, and how far the task's other scorers are from it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from scope_cpp.errors import UsageError
from scope_cpp.eval.folder import RunFolder
from scope_cpp.eval.metrics import QUARTERS, quarter
from scope_cpp.eval.scorers.files import FileScore, score_file
from scope_cpp.eval.tasks import find

Line = Callable[[str], None]

_SHOWN = 20  # problems that are listed


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
        The fields of `FileScore`, ``percent``, and ``others``: of each other scorer of the task
        ``total``, ``percent``, ``difference`` (to this one) and ``differing`` (ids of outputs that
        it gives another score).
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
                "difference": other.total - found.total,
                "differing": _differing(found, other),
            }
    return {"file": str(path), **asdict(found), "percent": found.percent, "others": others}


def _differing(one: FileScore, other: FileScore) -> list[str]:
    return [name for name, value in one.by_item.items() if other.by_item.get(name) != value]


def render(found: dict[str, Any], as_json: bool) -> str:
    """Return a score as JSON, or as lines for people."""
    if as_json:
        return json.dumps(found, indent=1, ensure_ascii=False) + "\n"
    lines = [
        f"{found['file']}: {found['task']}, {found['n']} outputs",
        f"{found['scorer']}: {found['percent']} %",
    ]
    for name, other in found["others"].items():
        lines.append(
            f"{name}: {other['percent']} % ({100 * other['difference']:+.4f} against "
            f"{found['scorer']}; {len(other['differing'])} outputs differ)"
        )
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
    return "".join(f"{line}\n" for line in lines)
