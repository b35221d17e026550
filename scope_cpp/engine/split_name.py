"""Names of the files of a model in parts: ``name-00001-of-00003.gguf``."""

from __future__ import annotations

import re
from pathlib import Path

# name, number, count, extension
SPLIT = re.compile(r"(.+)-(\d{5})-of-(\d{5})(\.gguf)", re.IGNORECASE)


def part_names(name: str) -> list[str]:
    """Return the names of all files of the model that `name` is a file of, in order."""
    match = SPLIT.fullmatch(name)
    if match is None:
        return [name]
    stem, _, count, extension = match.groups()
    return [f"{stem}-{number:05}-of-{count}{extension}" for number in range(1, int(count) + 1)]


def part_paths(path: Path) -> tuple[Path, ...]:
    """Return all files of the model that `path` is a file of, whether they are there or not."""
    return tuple(path.with_name(name) for name in part_names(path.name)) or (path,)
