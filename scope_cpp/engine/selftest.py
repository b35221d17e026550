"""A test that needs no model: evict from a tiny random one and compare with a NumPy llama.

Both are fed the same tokens, and the reference evicts, in each layer and head, the tokens that the
bounded cache gave up. What is compared is what llama.cpp made of it: logits and cells in use.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from scope_cpp.engine.cache.bounded import BoundedCache
from scope_cpp.engine.context import Context, ContextParams
from scope_cpp.engine.kv_types import kv_type
from scope_cpp.engine.model import Model
from scope_cpp.errors import ScopeError
from scope_cpp.native import kv_evict
from scope_cpp.policies import make_decode, make_prefill
from scope_cpp.reference.numpy_llama import NumpyLlama
from scope_cpp.reference.tiny_model import write_tiny_model

N_PROMPT, N_GENERATED, CAPACITY = 40, 72, 64

# What one rounding changes at most, as a share of the number: half a step of f16's 11 bits; of q8_0
# half of a 127th of the largest in a block
_ROUNDING = {"f16": 2.0**-11, "q8_0": 1 / 254}
# A backend may add up in f16 (a CPU's flash attention does, GPUs multiply matrices in it), and n
# roundings add up like the steps of a random walk, to their square root. The longest sums have as
# many terms as the model is wide, in each of its two layers. With the wrong tokens in the cache
# logits differ by 0.5 and more.
N_LAYER, N_TERMS = 2, 128
TOLERANCE = {name: part * (N_TERMS * N_LAYER) ** 0.5 for name, part in _ROUNDING.items()}


@dataclass(frozen=True)
class Check:
    """One thing that was tested: its name, whether it holds, and the figures."""

    name: str
    ok: bool
    detail: str


@dataclass(frozen=True)
class Trace:
    """What was seen while tokens were fed.

    Attributes
    ----------
    error
        Largest relative difference of logits to the reference with the same evictions.
    effect
        The same to the reference without any: how much there was to get wrong.
    most_cells
        Most cells in use, by llama.cpp's count.
    evicted
        Cells freed.
    heads_differ
        Whether the heads ended with different tokens.
    """

    error: float
    effect: float
    most_cells: int
    evicted: int
    heads_differ: bool


def run() -> list[Check]:
    """Run all checks; one that could not be run has failed."""
    with tempfile.TemporaryDirectory(prefix="scope-doctor-") as folder:
        path = write_tiny_model(Path(folder) / "tiny.gguf", n_layer=N_LAYER)
        return [check for name in TOLERANCE for check in _checks(path, name)]


def _checks(path: Path, type_name: str) -> Iterator[Check]:
    try:
        seen = trace(path, type_name)
    except (ScopeError, ValueError) as err:  # ValueError: the reference can't follow
        yield Check(f"{type_name} cache", False, str(err))
        return
    tolerance = TOLERANCE[type_name]
    yield Check(
        f"{type_name} logits after eviction by head",
        bool(seen.error <= tolerance) and seen.evicted > 0 and seen.heads_differ,
        f"{seen.evicted} cells evicted, off by {seen.error:.1e} of the largest logit "
        f"(allowed {tolerance:.1e}; without eviction {seen.effect:.2f})",
    )
    yield Check(
        f"{type_name} cells in use",
        seen.most_cells <= CAPACITY,
        f"at most {seen.most_cells} of {CAPACITY}",
    )


def trace(path: Path, type_name: str) -> Trace:
    """Feed random tokens to a bounded cache of one type and to the references."""
    rounding = np.float16 if type_name == "f16" else np.float32
    evicting, full = (NumpyLlama(path, np.float32, rounding) for _ in range(2))
    ggml_type = kv_type(type_name).ggml_type
    params = ContextParams(n_cells=CAPACITY, type_k=ggml_type, type_v=ggml_type, n_threads=1)
    with Model.load(path) as model, Context(model, params) as context:
        tokens = np.random.default_rng(0).integers(3, model.n_vocab, N_PROMPT + N_GENERATED)
        cache = _cache(context)
        errors, effects, cells = [], [], []
        for n_past, batch in _batches([int(token) for token in tokens]):
            if n_past:
                cache.decode(batch[0])
                _evict(evicting, cache.positions())
            else:
                cache.prefill(batch)
            logits = context.logits()
            errors.append(_difference(logits, evicting.decode(batch, n_past)[-1]))
            effects.append(_difference(logits, full.decode(batch, n_past)[-1]))
            cells.append(kv_evict.n_used(context.ptr))
        held = np.sort(cache.positions(), axis=2)
        return Trace(
            error=float(np.max(errors)),  # not max(), which can lose a NaN
            effect=float(np.max(effects)),
            most_cells=max(cells),
            evicted=cache.stats.evicted,
            heads_differ=bool((held != held[:, :1]).any()),
        )


def _batches(tokens: list[int]) -> Iterator[tuple[int, list[int]]]:
    yield 0, tokens[:N_PROMPT]
    for n_past in range(N_PROMPT, len(tokens)):
        yield n_past, tokens[n_past : n_past + 1]


def _cache(context: Context) -> BoundedCache:
    decode = make_decode("scope-slide", {}).resolve(CAPACITY, N_PROMPT, N_GENERATED)
    prefill = make_prefill("full", {}).resolve(CAPACITY, N_PROMPT)
    return BoundedCache(context, CAPACITY, decode, prefill, n_predict=N_GENERATED)


def _evict(reference: NumpyLlama, positions: NDArray[np.int32]) -> None:
    """Drop from the reference what the cache no longer holds (its newest token comes next)."""
    held = reference.positions()
    keep = (held[..., :, None] == positions[..., None, :]).any(axis=-1)
    reference.evict(keep)


def _difference(logits: NDArray[np.float32], expected: NDArray[np.float32]) -> float:
    return float(np.abs(logits - expected).max() / np.abs(expected).max())
