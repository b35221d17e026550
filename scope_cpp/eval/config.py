"""What a run's results depend on, and in what two such things differ."""

from __future__ import annotations

import hashlib
import platform
import re
import sys
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np

from scope_cpp import __version__
from scope_cpp.engine.doctor import native_facts
from scope_cpp.engine.model import Model
from scope_cpp.eval.asked import Asked
from scope_cpp.eval.record import item_digest
from scope_cpp.eval.rows import Row
from scope_cpp.eval.task import Item, Task
from scope_cpp.reference.shipped import model_label

Config = dict[str, Any]

# what a folder's run and a new one must have in common, by what a message calls it
_SAME = {
    "task": "task",
    "task_options": "task options",
    "items": "samples (--data, --limit)",
    "seed": "seed",
    "template": "--template",
    "temp": "temperature",
    "log_samples": "--log-samples",
}

_ENDS = 2**20


def config_of(
    asked: Asked,
    task: Task,
    model: Model,
    items: Sequence[Item],
    rows: Sequence[Row],
    command: Sequence[str],
) -> Config:
    """Return what ``config.json`` holds; see `differences` for what identifies a run."""
    native = native_facts()
    return {
        "model": model_identity(model.path) | {"desc": model.desc},
        "task": asked.task,
        "task_options": list(asked.task_options),
        "lower_is_better": task.lower_is_better,
        "compares": task.compares,
        "data": None if asked.data is None else str(asked.data),
        "limit": asked.limit,
        "items": {"n": len(items), "sha256": _digest_of(items)},
        "seed": asked.seed,
        "seeds": list(asked.seeds),
        "template": asked.template,
        "temp": asked.temp,
        "log_samples": asked.log_samples,
        "rows": [row.to_json() for row in rows],
        "versions": {
            "scope_cpp": __version__,
            "llama_cpp": native["commit"],
            "abi": native["abi"],
            "numpy": np.__version__,
            "python": sys.version.split()[0],
            "platform": platform.platform(),
            "devices": [device.name for device in native["devices"]],
        },
        "command": list(command),
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }


def model_identity(path: Path) -> dict[str, Any]:
    """Return label and size of a file, and a digest of its size and its first and last MiB."""
    size = path.stat().st_size
    digest = hashlib.sha256(str(size).encode())
    with path.open("rb") as file:
        digest.update(file.read(_ENDS))
        file.seek(max(0, size - _ENDS))
        digest.update(file.read())
    return {"name": model_label(path), "bytes": size, "sha256_of_ends": digest.hexdigest()}


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return in what two configurations differ, by name; nothing if one can go on with the other's.

    Rows of one name must be the same; others are added. The name of the model's file does not
    matter, nor do versions, threads and the command.
    """
    found = []
    if not _same_model(before, now):
        found.append(f"model {now['model']['name']} instead of {before['model']['name']}")
    for key, name in _SAME.items():
        one, other = (seeds_of(c) if key == "seed" else c.get(key) for c in (before, now))
        if one == other:
            continue
        if isinstance(other, (str, int, float)) and not isinstance(other, bool):
            found.append(f"{name} {other} instead of {one}")
        else:
            found.append(f"other {name}")
    old = {row["name"]: row for row in before["rows"]}
    new = {row["name"]: row for row in now["rows"]}
    for name in old:
        if name in new and old[name] != new[name]:
            changed = [k for k in new[name] if old[name].get(k) != new[name][k]]
            found.append(f"row {name!r} with other {', '.join(changed)}")
    return found


def seeds_of(config: Mapping[str, Any]) -> str:
    """Return a run's seeds as a text; the runs of earlier versions had one."""
    return ", ".join(map(str, config.get("seeds", [config["seed"]])))


def folder_name(config: Config) -> str:
    """Return a name that is the same for the same configuration, and tells task and model.

    Rows that are compared with one text share a folder, whatever rows there are.
    """
    same = {key: config[key] for key in (*_SAME, *(() if config["compares"] else ("rows",)))}
    text = repr((same, config["model"]["sha256_of_ends"]))
    digest = hashlib.sha256(text.encode()).hexdigest()[:8]
    model = re.sub(r"[^A-Za-z0-9._-]+", "-", Path(config["model"]["name"]).stem)
    return f"{config['task']}-{model}-{digest}"


def _same_model(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    key = "sha256_of_ends"
    return bool(one["model"].get(key) == other["model"].get(key))


def _digest_of(items: Sequence[Item]) -> str:
    return hashlib.sha256("".join(item_digest(item) for item in items).encode()).hexdigest()
