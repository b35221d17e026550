"""The NumPy model against stock llama.cpp, and its evictions against what they must mean."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pytest
from gguf import GGUFWriter

from scope_cpp.reference.numpy_llama import NumpyLlama
from scope_cpp.reference.tiny_model import write_file, write_tiny_model
from tests.reference.refused import write_refused
from tests.reference.stock import Stock
from tests.reference.test_tiny_model import shape_id

Array = npt.NDArray[Any]

N_PROMPT, N_MORE = 60, 20

# relative to the largest logit. The CPU's fused attention rounds Q, K and V to f16, and so does
# an f16 cache; with neither, only the order of f32 sums differs.
F32_TOLERANCE = 1e-5
F16_TOLERANCE = 3e-3

SHAPES: list[dict[str, Any]] = [
    *({"arch": arch} for arch in ("mistral3", "qwen2", "qwen3", "phi3")),
    *({"n_head_kv": n} for n in (1, 2, 4, 8)),
    {"n_expert": 4, "n_expert_used": 2},
    {"rope_freq_base": 500000.0, "n_layer": 3, "seed": 7},
]


class Decoder(Protocol):
    """What both models can do."""

    def decode(self, tokens: Sequence[int], pos: int) -> Array:
        """Return the logits after each token."""


def random_tokens(n: int, n_vocab: int) -> list[int]:
    return np.random.default_rng(5).integers(3, n_vocab, n).tolist()


def prompt_then_single(model: Decoder, tokens: Sequence[int]) -> Array:
    """Decode the prompt at once and the other tokens one by one."""
    parts = [model.decode(tokens[:N_PROMPT], 0)]
    parts += [model.decode([tokens[pos]], pos) for pos in range(N_PROMPT, len(tokens))]
    return np.concatenate(parts)


def error(logits: Array, expected: Array) -> float:
    return float(np.abs(logits - expected).max() / np.abs(expected).max())


def compare(path: Path, kv: str, flash: bool) -> float:
    """Return the error of llama.cpp's logits against NumPy's."""
    with Stock(path, kv=kv, flash=flash) as stock:
        tokens = random_tokens(N_PROMPT + N_MORE, stock.n_vocab)
        logits = prompt_then_single(stock, tokens)
    stored = np.float32 if kv == "f32" else np.float16
    return error(logits, prompt_then_single(NumpyLlama(path, kv_dtype=stored), tokens))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write_tiny_model(tmp_path / "tiny.gguf")


@pytest.fixture
def tokens() -> list[int]:
    return random_tokens(N_PROMPT + N_MORE, 380)


@pytest.mark.parametrize("shape", SHAPES, ids=shape_id)
def test_equals_llama_cpp(tmp_path: Path, shape: dict[str, Any]) -> None:
    path = write_tiny_model(tmp_path / "tiny.gguf", **shape)
    assert compare(path, kv="f32", flash=False) < F32_TOLERANCE
    assert compare(path, kv="f16", flash=True) < F16_TOLERANCE


def test_equals_llama_cpp_on_a_trained_model(shared_dir: Path) -> None:
    path = shared_dir / "models" / "stories260K-f32.gguf"
    assert compare(path, kv="f32", flash=False) < F32_TOLERANCE
    assert compare(path, kv="f16", flash=True) < F16_TOLERANCE


def test_one_batch_equals_single_tokens(path: Path, tokens: list[int]) -> None:
    whole = NumpyLlama(path).decode(tokens, 0)
    assert error(prompt_then_single(NumpyLlama(path), tokens), whole) < 1e-12


def test_reset_forgets(path: Path, tokens: list[int]) -> None:
    model = NumpyLlama(path)
    first = model.decode(tokens, 0)
    model.reset()
    assert np.array_equal(model.decode(tokens, 0), first)


def test_same_rows_evicted_as_llama_cpp_removes(path: Path, tokens: list[int]) -> None:
    """Removing positions 10 to 39 from all heads is what llama_memory_seq_rm does."""
    model = NumpyLlama(path)
    with Stock(path, kv="f32", flash=False) as stock:
        for side in (stock, model):
            side.decode(tokens[:N_PROMPT], 0)
        stock.remove(10, 40)
        pos = model.positions()
        model.evict((pos < 10) | (pos >= 40))
        logits = stock.decode(tokens[N_PROMPT:], N_PROMPT)
    assert error(logits, model.decode(tokens[N_PROMPT:], N_PROMPT)) < F32_TOLERANCE


def random_keep(model: NumpyLlama, n: int) -> npt.NDArray[np.bool_]:
    """Mark `n` random rows, another set for each head."""
    noise = np.random.default_rng(9).random(model.positions().shape)
    return np.asarray(noise.argsort(axis=2).argsort(axis=2) < n)


def test_heads_keep_their_own_rows(path: Path, tokens: list[int]) -> None:
    model = NumpyLlama(path)
    model.decode(tokens[:N_PROMPT], 0)
    keep = random_keep(model, 20)
    expected = [[np.flatnonzero(head) for head in layer] for layer in keep]
    k = [layer.copy() for layer in model.k]
    model.evict(keep)
    assert np.array_equal(model.positions(), expected)
    for layer in range(model.n_layer):
        for head in range(model.n_head_kv):
            kept = k[layer][head, expected[layer][head]]
            assert np.array_equal(model.k[layer][head], kept)


def test_eviction_by_head_changes_the_logits(path: Path, tokens: list[int]) -> None:
    model, untouched = NumpyLlama(path), NumpyLlama(path)
    for side in (model, untouched):
        side.decode(tokens[:N_PROMPT], 0)
    model.evict(random_keep(model, 40))
    logits = model.decode(tokens[N_PROMPT:], N_PROMPT)
    assert error(logits, untouched.decode(tokens[N_PROMPT:], N_PROMPT)) > 0.1


def test_evicted_rows_do_not_count(path: Path, tokens: list[int]) -> None:
    """What a head has evicted can be anything: spoil those rows before, the logits stay."""
    model, spoiled = NumpyLlama(path), NumpyLlama(path)
    for side in (model, spoiled):
        side.decode(tokens[:N_PROMPT], 0)
    keep = random_keep(model, 40)
    for layer in range(model.n_layer):
        spoiled.k[layer][~keep[layer]] = 100.0
        spoiled.v[layer][~keep[layer]] = 100.0
    for side in (model, spoiled):
        side.evict(keep)
    logits, expected = (side.decode(tokens[N_PROMPT:], N_PROMPT) for side in (spoiled, model))
    assert np.array_equal(logits, expected)


def test_evicting_nothing_changes_nothing(path: Path, tokens: list[int]) -> None:
    model, untouched = NumpyLlama(path), NumpyLlama(path)
    for side in (model, untouched):
        side.decode(tokens[:N_PROMPT], 0)
    model.evict(np.ones(model.positions().shape, bool))
    logits, expected = (side.decode(tokens[N_PROMPT:], N_PROMPT) for side in (model, untouched))
    assert np.array_equal(logits, expected)


def test_attention_is_a_causal_distribution(path: Path, tokens: list[int]) -> None:
    model = NumpyLlama(path)
    model.decode(tokens[:N_PROMPT], 0)
    model.evict(random_keep(model, 40))
    model.decode(tokens[N_PROMPT:], N_PROMPT)
    at = np.arange(N_PROMPT, N_PROMPT + N_MORE)
    future = model.positions()[:, :, None, :] > at[:, None]
    assert model.attention.shape == (model.n_layer, model.n_head_kv, N_MORE, 40 + N_MORE)
    assert np.allclose(model.attention.sum(axis=3), model.n_head / model.n_head_kv)
    assert (model.attention[future] == 0).all()
    assert (model.attention[~future] > 0).all()


def test_cache_is_rounded_to_its_type(path: Path, tokens: list[int]) -> None:
    exact, rounded = NumpyLlama(path), NumpyLlama(path, kv_dtype=np.float16)
    logits = [prompt_then_single(model, tokens) for model in (exact, rounded)]
    for rows in rounded.k + rounded.v:
        assert np.array_equal(rows, rows.astype(np.float16))
    assert 0 < error(logits[1], logits[0]) < F16_TOLERANCE


@pytest.mark.parametrize("keep", [np.ones((2, 2, 9), bool), np.ones((2, 2, 10), np.int32)])
def test_keep_of_wrong_shape_or_type(path: Path, keep: Array) -> None:
    model = NumpyLlama(path)
    model.decode(range(260, 270), 0)
    with pytest.raises(ValueError, match="keep must be bool"):
        model.evict(keep)


def test_heads_that_keep_fewer_rows(path: Path, tokens: list[int]) -> None:
    """The rows that they have too many can be anything, now and after another eviction."""
    models = NumpyLlama(path), NumpyLlama(path)
    for model in models:
        model.decode(tokens[:N_PROMPT], 0)
        keep = random_keep(model, 20)
        keep[0, 1] = random_keep(model, 31)[0, 1]
        model.evict(keep)
        pos = model.positions()
        assert pos.shape[2] == 31
        for layer, head in np.ndindex(pos.shape[:2]):
            kept = np.flatnonzero(keep[layer, head])
            assert np.array_equal(pos[layer, head], np.append(kept, [-1] * (31 - len(kept))))
    spoiled = models[1]
    for layer in range(spoiled.n_layer):
        spoiled.k[layer][spoiled.positions()[layer] < 0] = 100.0
        spoiled.v[layer][spoiled.positions()[layer] < 0] = 100.0
    for n in (31, 25):
        more = tokens[N_PROMPT + 31 - n :]
        for model in models:
            model.evict(random_keep(model, n))
        logits = [model.decode(more, model.positions().max() + 1) for model in models]
        assert np.array_equal(*logits)


def test_other_architecture_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="bloom"):
        NumpyLlama(write_refused("bloom", tmp_path / "bloom.gguf"))


def test_rope_scaling_is_refused(tmp_path: Path) -> None:
    writer = GGUFWriter(tmp_path / "scaled.gguf", "llama")
    writer.add_string("llama.rope.scaling.type", "yarn")
    write_file(writer)
    with pytest.raises(ValueError, match="rope scaling"):
        NumpyLlama(tmp_path / "scaled.gguf")
