"""Fixtures for all tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """Folder with ``models/`` and ``data/``: $SCOPE_TEST_DATA, else ``shared`` beside the clone."""
    default = Path(__file__).resolve().parents[2] / "shared"
    folder = Path(os.environ.get("SCOPE_TEST_DATA", default))
    if not (folder / "models").is_dir():
        pytest.skip("no trained test models: set SCOPE_TEST_DATA to the folder that has models/")
    return folder
