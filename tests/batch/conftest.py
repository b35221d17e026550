"""A model, an input, and what an undisturbed run makes of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from scope_cpp.engine.model import Model
from scope_cpp.reference.shipped import MODEL
from scope_cpp.reference.task import make_samples
from tests.batch.drive import batch, by_id, write_rows

# The model was trained on such prompts: it knows what to write, and no rounding changes that.
BUDGET = 112
ROWS: list[dict[str, Any]] = [
    {
        "id": f"row {i}",
        "prompt": sample.prompt,
        "n_predict": (58, 23, 40)[i % 3],
        "ignore_eos": True,
        "budget": BUDGET,
        **({"temp": 0.9} if i % 3 == 0 else {}),
    }
    for i, sample in enumerate(make_samples("hubs", 12, 3, n_questions=6, n_facts=24, n_filler=4))
]


@pytest.fixture(scope="session")
def model() -> Iterator[Model]:
    with Model.load(MODEL) as loaded:
        yield loaded


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """Twelve rows; four of them draw."""
    return write_rows(tmp_path / "rows.jsonl", ROWS)


@pytest.fixture(scope="session")
def undisturbed(model: Model, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Records of the rows by id."""
    folder = tmp_path_factory.mktemp("undisturbed")
    summary = batch(model, write_rows(folder / "rows.jsonl", ROWS), folder / "out.jsonl")
    assert summary.complete and not summary.n_failed
    return by_id(folder / "out.jsonl")
