"""Random models: what they contain, and that stock llama.cpp runs them."""

from __future__ import annotations

import string
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGUFReader

from scope_cpp.reference.numpy_llama import NumpyLlama
from scope_cpp.reference.tiny_model import ARCHITECTURES, write_tiny_model
from tests.reference.stock import Stock

SHAPES: list[dict[str, Any]] = [
    *({"arch": arch} for arch in ARCHITECTURES),
    *({"n_head_kv": n} for n in (1, 4, 8)),
    {"n_expert": 4, "n_expert_used": 2},
    {"weight_type": "f16"},
    {"weight_type": "q8_0"},
    {"n_layer": 4, "head_dim": 128},
]

TEXTS = [
    string.printable,
    "the other hand, there and  then\n",
    "h\u00e9llo \u2603 \u65e5\u672c",
    "\0",
]


def shape_id(shape: dict[str, Any]) -> str:
    return "-".join(f"{key}={value}" for key, value in shape.items())


@pytest.mark.parametrize("shape", SHAPES, ids=shape_id)
def test_llama_cpp_decodes_it(tmp_path: Path, shape: dict[str, Any]) -> None:
    path = write_tiny_model(tmp_path / "tiny.gguf", **shape)
    with Stock(path) as stock:
        logits = stock.decode(stock.tokenize("hello world", add_special=True), pos=0)
        assert logits.shape[1] == stock.n_vocab
    assert np.isfinite(logits).all()
    assert logits.std() > 0.5


def test_default_file_is_small(tmp_path: Path) -> None:
    for arch in ARCHITECTURES:
        assert write_tiny_model(tmp_path / arch, arch=arch).stat().st_size < 4_000_000


def test_text_survives_tokenizing(tmp_path: Path) -> None:
    with Stock(write_tiny_model(tmp_path / "tiny.gguf")) as stock:
        for text in TEXTS:
            tokens = stock.tokenize(text)
            assert stock.detokenize(tokens) == text
            assert stock.tokenize(stock.detokenize(tokens)) == tokens
        assert len(stock.tokenize(" the")) == 1  # a merged piece
        assert stock.tokenize("a", add_special=True) == [1, *stock.tokenize("a")]


def test_seed_decides_the_weights(tmp_path: Path) -> None:
    first, again, other = (
        write_tiny_model(tmp_path / name, seed=seed).read_bytes()
        for name, seed in (("first", 1), ("again", 1), ("other", 2))
    )
    assert first == again
    assert first != other


def test_peaky_sharpens_attention(tmp_path: Path) -> None:
    def sharpness(arch: str, peaky: float) -> float:
        model = NumpyLlama(write_tiny_model(tmp_path / "tiny.gguf", arch=arch, peaky=peaky))
        model.decode(range(260, 360), pos=0)
        return float(model.attention[:, :, -1].max(axis=-1).mean() * model.n_head_kv / model.n_head)

    for arch in ("llama", "qwen3"):
        assert sharpness(arch, 4.0) > 2 * sharpness(arch, 1.0)


def test_chat_template_is_stored(tmp_path: Path) -> None:
    path = write_tiny_model(tmp_path / "tiny.gguf", chat_template="{{ messages }}")
    assert GGUFReader(path).fields["tokenizer.chat_template"].contents() == "{{ messages }}"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"arch": "gpt2"}, "unknown architecture"),
        ({"weight_type": "q4_0"}, "weight type"),
        ({"arch": "qwen2", "n_embd": 100}, "n_head"),
        ({"n_head_kv": 3}, "n_head_kv"),
        ({"arch": "qwen3", "n_expert": 4}, "experts"),
    ],
)
def test_impossible_shape_is_refused(tmp_path: Path, fields: dict[str, Any], message: str) -> None:
    path = tmp_path / "tiny.gguf"
    with pytest.raises(ValueError, match=message):
        write_tiny_model(path, **fields)
    assert not path.exists()
