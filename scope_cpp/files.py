"""Files that are read and written with care: whole or not at all, by one process at a time."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from scope_cpp.errors import ScopeError

FORMAT = 1


def cannot_write(path: Path, err: OSError) -> NoReturn:
    """Raise the error of a file that can't be written."""
    raise ScopeError(
        f"{path} cannot be written: {err.strerror or err}; what is finished stays, the same "
        "command goes on from there"
    ) from None


def lock(descriptor: int) -> bool:
    """Lock a file while it is open; Windows has no such lock, and does without."""
    try:
        import fcntl
    except ImportError:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def read_json(path: Path) -> dict[str, Any]:
    """Return an object that has a format we know.

    Raises
    ------
    ScopeError
        If it can't be read, is damaged, or was written by a newer version.
    """
    try:
        values = json.loads(path.read_bytes())
    except OSError as err:
        raise ScopeError(f"{path} cannot be read: {err.strerror}") from None
    except ValueError as err:
        raise ScopeError(f"{path} is damaged ({err}): give another place to begin anew") from None
    version = values.get("format") if isinstance(values, dict) else None
    if not isinstance(version, int):
        raise ScopeError(f"{path} is damaged (no format): give another place to begin anew")
    if version > FORMAT:
        raise ScopeError(
            f"{path} has format {version}, this version of scope-cpp knows {FORMAT}: update it"
        )
    return dict(values)


def dump(values: Mapping[str, Any]) -> bytes:
    """Return the text of an object."""
    return (json.dumps(values, indent=1, ensure_ascii=False) + "\n").encode()


def replace(path: Path, data: bytes) -> None:
    """Write a file beside `path`, and put it in its place once it is on the disk."""
    new = path.with_name(f".{path.name}.new")
    with new.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(new, path)
