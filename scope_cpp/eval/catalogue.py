"""The tasks that there are: what they ask, and what data they need."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from scope_cpp.eval.tasks import tasks


def catalogue() -> list[dict[str, Any]]:
    """Return a record for each task; ``data`` says where to get it, ``None`` if none is needed."""
    return [
        {
            "task": name,
            "summary": task.summary,
            "scorers": list(task.scorers),
            "lower_is_better": task.lower_is_better,
            "options": {key: asdict(option) for key, option in task.options.items()},
            "data": task.where or None,
        }
        for name, task in tasks().items()
    ]


def listing() -> str:
    """Return the same as lines for people."""
    lines = []
    for record in catalogue():
        lines += [
            record["task"],
            f"  {record['summary']}",
            f"  data: {record['data'] or 'made by the task, none needed'}",
            f"  scorers: {', '.join(record['scorers'])}",
        ]
        for name, option in record["options"].items():
            lines.append(f"  --task-option {name}={_shown(option['default'])}: {option['text']}")
    return "".join(f"{line}\n" for line in lines)


def _shown(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, (tuple, list)) else str(value)
