"""Which model a conversation was held with: told apart in milliseconds, not by reading it all.

Digests cover the whole header (metadata, vocabulary, chat template; names, shapes and types of the
tensors) and 4 KiB from the middle of every tensor. So a fine-tune of the same shape is another
model, while files that differ only in weights between the samples are taken for the same.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from scope_cpp.engine.budget import format_bytes
from scope_cpp.engine.gguf_header import read_layout
from scope_cpp.engine.model import Model
from scope_cpp.engine.split_name import part_paths
from scope_cpp.errors import ScopeError

_SAMPLE = 4096


def identify(model: Model) -> dict[str, Any]:
    """Return what tells a model from others, for JSON.

    Raises
    ------
    ScopeError
        If its file is no longer there.
    """
    parts = part_paths(model.path)
    try:
        header, weights = _digest(map(_header, parts)), _digest(_samples(parts))
        n_bytes = sum(part.stat().st_size for part in parts)
    except OSError as err:
        raise ScopeError(
            f"{model.path} cannot be read any more: {err.strerror}; put the model back"
        ) from None
    return {
        "file": model.path.name,
        "architecture": model.arch,
        "n_bytes": n_bytes,
        "header": header,
        "weights": weights,
    }


def difference(saved: dict[str, Any], here: dict[str, Any]) -> str | None:
    """Say which model was saved and which is here; None if they are the same, whatever the name."""
    if all(saved.get(key) == value for key, value in here.items() if key != "file"):
        return None
    if saved.get("header") == here["header"] and saved.get("n_bytes") == here["n_bytes"]:
        return f"{_name(saved)}; {_name(here)} has the same shape, but other weights"
    if _name(saved) == _name(here):
        return f"{_name(saved)}; this one has another header (vocabulary, template or metadata)"
    return f"{_name(saved)}; this is {_name(here)}"


def _name(found: dict[str, Any]) -> str:
    n_bytes = found.get("n_bytes")
    size = format_bytes(n_bytes) if isinstance(n_bytes, int) else "?"
    return f"{found.get('file')} ({found.get('architecture')}, {size})"


def _header(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(read_layout(path).n_header)


def _samples(paths: Iterable[Path]) -> Iterator[bytes]:
    for path in paths:
        with path.open("rb") as file:
            starts = read_layout(path).tensors
            for start, end in zip(starts, (*starts[1:], path.stat().st_size), strict=False):
                n = min(_SAMPLE, end - start)
                file.seek(start + (end - start - n) // 2)
                yield file.read(n)


def _digest(parts: Iterable[bytes]) -> str:
    digest = hashlib.blake2b(digest_size=32)
    for part in parts:
        digest.update(part)
    return digest.hexdigest()
