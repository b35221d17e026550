"""Which files passed a trial, so that only the first load of each pays for one.

An empty file in the user's cache folder stands for each: its name is made of the paths, sizes and
times of the model's files and of the native library, so that a change of any makes it unknown.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

from scope_cpp.files import open_own
from scope_cpp.native.library import library_path

_MAX_FILES = 1000  # the oldest go first

_here: set[str] = set()  # where nothing can be written, at least this process knows


def folder() -> Path:
    """Folder of the files that stand for files."""
    from platformdirs import user_cache_path

    return user_cache_path("scope-cpp") / "known-files"


def is_known(parts: Sequence[Path], weights: bool) -> bool:
    """Whether these files, which are one model, passed; with `weights` also with those."""
    names = [_name(parts, True)] if weights else [_name(parts, level) for level in (True, False)]
    return any(name in _here or (folder() / name).exists() for name in names)


def remember(parts: Sequence[Path], weights: bool) -> None:
    """Take note that these files passed."""
    name = _name(parts, weights)
    _here.add(name)
    with contextlib.suppress(OSError):  # a home that can't be written costs time, nothing else
        folder().mkdir(parents=True, exist_ok=True)
        _prune()
        os.close(open_own(folder() / name, os.O_WRONLY | os.O_CREAT))


def _name(parts: Sequence[Path], weights: bool) -> str:
    libraries = sorted(library_path().iterdir())
    identity = [_identity(path) for path in (*parts, *libraries)]
    digest = hashlib.sha256(repr(identity).encode(errors="surrogatepass")).hexdigest()
    return f"{digest[:32]}-{'weights' if weights else 'shapes'}"


def _identity(path: Path) -> tuple[object, ...]:
    try:
        found = path.stat()
    except OSError:  # a part that is missing: the trial will say so
        return (str(path),)
    return os.path.realpath(path), found.st_size, found.st_mtime_ns, found.st_ino


def _prune() -> None:
    entries = sorted(os.scandir(folder()), key=lambda entry: entry.stat().st_mtime_ns)
    for entry in entries[: max(0, len(entries) - _MAX_FILES + 1)]:
        os.unlink(entry.path)
