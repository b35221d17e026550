"""Answers of a real model to JSON schemas; ``scripts/check_schemas.py`` has many more."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from scope_cpp.engine.model import Model

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))
from check_schemas import HOT, SCHEMAS, answer, fault  # noqa: E402


@pytest.mark.parametrize("name", ["as pydantic writes", "one of", "pattern"])
def test_every_finished_answer_is_valid(smollm2: Model, name: str) -> None:
    finished = 0
    for seed, sampling in enumerate(({"temp": 0.8}, HOT)):
        text, reason = answer(smollm2, SCHEMAS[name], 160, seed=seed, **sampling)
        if reason == "stop":
            finished += 1
            assert fault(SCHEMAS[name], text) is None, text
    assert finished
