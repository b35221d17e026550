from __future__ import annotations

import json
from pathlib import Path

import pytest

from scope_cpp.reference.tiny_model import write_tiny_model
from tests.architectures.maker import write_architecture
from tests.reference.refused import LOADABLE, write_refused

from .conftest import Run, assert_refused


def test_object(run: Run, tiny: Path) -> None:
    result = run("inspect", tiny, "--json", "-c", 1000, "--budget", "25%", "-ctk", "q8_0")
    got = json.loads(result.stdout)
    assert result.stderr.startswith("warning: 1000 tokens are more than the 512 that")
    shape = {"n_layer": 2, "n_head": 8, "n_head_kv": [2, 2], "head_dim_k": 64, "head_dim_v": 64}
    per_cell = 2 * 2 * (64 * 34 // 32 + 64 * 2)
    expected = {
        **shape,
        "path": str(tiny),
        "architecture": "llama",
        "name": "tiny random model",
        "file_type": "all F32",
        "n_ctx_train": 512,
        "n_positions": None,
        "n_vocab": 381,
        "chat_template": True,
        "memory": "attention to all tokens",
        "supported": True,
        "reason": "",
        "bounded_layers": [0, 1],
        "type_k": "q8_0",
        "type_v": "f16",
        "bytes_per_cell": per_cell,
        "ctx_size": 1000,
        "kv_bytes_full": 1024 * per_cell,
        "fixed_bytes_full": 0,
        "budget_cells": 250,
        "kv_bytes_budget": 256 * per_cell,
        "fixed_bytes_budget": 0,
    }
    assert {key: got[key] for key in expected} == expected
    parts = ("kv", "compute", "query", "selection")
    told = {f"{part}_bytes_budget" for part in ("memory", *parts)} | {"memory_bytes_full"}
    assert set(got) == {*expected, *told, "size_bytes", "n_params"}
    assert got["memory_bytes_budget"] == sum(got[f"{part}_bytes_budget"] for part in parts)
    assert got["memory_bytes_full"] > got["kv_bytes_full"]
    assert got["size_bytes"] == 4 * got["n_params"]


@pytest.mark.parametrize("kv_type", ["f16", "q8_0"])
def test_bytes_are_those_that_generate_allocates(run: Run, tiny: Path, kv_type: str) -> None:
    types = ("-ctk", kv_type, "-ctv", kv_type, "--budget", 300, "--json")
    told = json.loads(run("inspect", tiny, "-c", 4000, *types).stdout)
    made = json.loads(run("generate", tiny, "-p", "Hi", "-n", 400, *types).stdout)
    assert told["kv_bytes_budget"] == made["kv_bytes"]
    assert told["selection_bytes_budget"] == made["selection_bytes"]
    assert made["query_bytes"] <= told["query_bytes_budget"]
    assert made["memory_bytes"] <= told["memory_bytes_budget"]


def test_text(run: Run, tmp_path: Path) -> None:
    path = write_tiny_model(tmp_path / "m.gguf", arch="qwen3", weight_type="q8_0")
    out = run("inspect", path).stdout
    for words in ("qwen3", "Q8_0", "yes, all layers", "chat template    no", "512 tokens"):
        assert words in out


@pytest.mark.parametrize(("name", "word"), LOADABLE.items())
def test_models_that_cannot_be_bounded(run: Run, tmp_path: Path, name: str, word: str) -> None:
    path = write_refused(name, tmp_path / "m.gguf")
    got = json.loads(run("inspect", path, "--json").stdout)
    assert not got["supported"]
    assert word.lower() in got["reason"].lower().replace("-", " ")
    assert got["bounded_layers"] == []
    assert got["bytes_per_cell"] is None
    assert "bounded cache    no: " in run("inspect", path).stdout


def test_wrong_values(run: Run, tiny: Path) -> None:
    assert_refused(run("inspect", tiny, "-ctk", "x"), 2, "KV cache type")
    assert_refused(run("inspect", tiny, "--budget", "x"), 2, "budget 'x'")
    assert_refused(run("inspect", tiny, "-nkvo"), 2, "-nkvo")


@pytest.mark.parametrize(
    ("asked", "told"),
    [(512, ""), (513, "warning: 513 tokens are more than the 512 that {name} was trained on: ")],
)
def test_a_length_beyond_the_trained_one_is_told(
    run: Run, tiny: Path, asked: int, told: str
) -> None:
    for form in ([], ["--json"]):
        result = run("inspect", tiny, "-c", asked, *form)
        assert result.exit_code == 0
        assert result.stderr.startswith(told.format(name=tiny.name))
        assert result.stderr.count("\n") == bool(told)


def test_a_length_beyond_learned_positions_is_told(run: Run, tmp_path: Path) -> None:
    path = write_architecture(tmp_path / "learned.gguf", "gpt2")
    result = run("inspect", path, "-c", 100000)
    assert (
        "warning: no text has 100000 tokens: learned.gguf has learned the first " in result.stderr
    )
