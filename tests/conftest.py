"""Fixtures for all tests."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from scope_cpp.reference.tiny_model import write_tiny_model

Tiny = Callable[..., Path]


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """Folder with ``models/`` and ``data/``: $SCOPE_TEST_DATA, else ``shared`` beside the clone."""
    default = Path(__file__).resolve().parents[2] / "shared"
    folder = Path(os.environ.get("SCOPE_TEST_DATA", default))
    if not (folder / "models").is_dir():
        pytest.skip("no trained test models: set SCOPE_TEST_DATA to the folder that has models/")
    return folder


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    """Path of a tiny model of the given `TinyModel` fields."""
    folder = tmp_path_factory.mktemp("tiny")
    written: dict[tuple[tuple[str, Any], ...], Path] = {}

    def get(**fields: Any) -> Path:
        key = tuple(sorted(fields.items()))
        if key not in written:
            written[key] = write_tiny_model(folder / f"{len(written)}.gguf", **fields)
        return written[key]

    return get
