"""A real instruct model: ``scripts/test`` downloads it, tests alone do not."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from scope_cpp.engine.catalog import KNOWN, models_folder
from scope_cpp.engine.model import Model

DOWNLOADED = Path(__file__).resolve().parents[2] / "build" / "models"


@pytest.fixture(scope="session")
def smollm2_path() -> Path:
    for folder in (DOWNLOADED, models_folder()):
        path = folder / "smollm2.gguf"
        if path.is_file() and path.stat().st_size == KNOWN["smollm2"].n_bytes:
            return path
    pytest.skip("no SmolLM2: python scripts/fetch_models.py smollm2 --into build/models")


@pytest.fixture(scope="module")
def smollm2(smollm2_path: Path) -> Iterator[Model]:
    with Model.load(smollm2_path) as model:
        yield model
