"""A bounded cache on a model, driven token by token without text or samplers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from scope_cpp.engine.cache.bounded import BoundedCache
from scope_cpp.engine.context import Context, ContextParams
from scope_cpp.engine.kv_types import kv_type
from scope_cpp.engine.model import Model
from scope_cpp.engine.settings import Settings
from scope_cpp.engine.sizes import resolve
from scope_cpp.policies import View

F32 = npt.NDArray[np.float32]
Int32 = npt.NDArray[np.int32]

# every decode policy that evicts, with options that make it do so in many ways within 300 tokens
POLICIES: dict[str, tuple[str, ...]] = {
    "scope-slide": ("interval=5",),
    "scope-adaptive": (),
    "scope-discontinuous": (),
    "h2o": ("interval=3",),
    "streaming-llm": (),
    # without foresight, whose weights differ with the rounding of f16 attention
    "scope-retrieval": ("interval=3", "ahead=0", "unlike=0"),
}
GRANULARITIES = ("head", "cell")


def options(policy: str, **more: Any) -> dict[str, Any]:
    """Settings of a policy of the table."""
    return {"policy": policy, "options": POLICIES[policy], **more}


@contextmanager
def open_context(
    path: Path,
    n_cells: int,
    kv: str = "f16",
    n_seq_max: int = 1,
    n_batch: int = 2048,
    flash_attn: str = "on",
    n_ubatch: int = 512,
) -> Iterator[Context]:
    """Make a context on one thread; its model is closed after it."""
    kind = kv_type(kv).ggml_type
    params = ContextParams(
        n_cells=n_cells,
        type_k=kind,
        type_v=kind,
        n_batch=n_batch,
        n_ubatch=n_ubatch,
        n_threads=1,
        n_threads_batch=1,
        n_seq_max=n_seq_max,
        n_outputs=n_batch,
        flash_attn=flash_attn,
    )
    with Model.load(path) as model, Context(model, params) as context:
        yield context


def make_cache(
    context: Context,
    n_prompt: int,
    n_predict: int | None,
    *,
    seq: int = 0,
    granularity: str = "head",
    **fields: Any,
) -> BoundedCache:
    """Resolve settings as a generation does, for a context that is there already."""
    settings = Settings(granularity=granularity, **fields)
    sizes = resolve(settings, context.model, n_prompt, n_predict)
    return BoundedCache(
        context,
        sizes.capacity,
        sizes.decode,
        sizes.prefill,
        whole_cells=granularity == "cell",
        n_predict=n_predict,
        bounded=sizes.bounded,
        seq=seq,
    )


@contextmanager
def bounded(
    path: Path,
    n_prompt: int,
    n_predict: int | None,
    budget: int,
    kv: str = "f16",
    flash_attn: str = "on",
    **fields: Any,
) -> Iterator[BoundedCache]:
    """Make a cache of `budget` cells in a context that has no more than it needs."""
    with open_context(path, budget, kv, flash_attn=flash_attn) as context:
        yield make_cache(
            context, n_prompt, n_predict, budget=budget, type_k=kv, type_v=kv, **fields
        )


def random_tokens(n: int, seed: int = 5) -> list[int]:
    """Tokens that every tiny model has, without control tokens."""
    return [int(token) for token in np.random.default_rng(seed).integers(3, 370, n)]


def decode_each(cache: BoundedCache, tokens: Sequence[int]) -> F32:
    """Decode tokens one by one; the logits after each."""
    rows = []
    for token in tokens:
        cache.decode(token)
        rows.append(cache.context.logits())
    return np.stack(rows)


def greedy(cache: BoundedCache, n: int) -> Iterator[int]:
    """Write `n` tokens; yields each one after it was decoded."""
    for _ in range(n):
        token = int(cache.context.logits().argmax())
        cache.decode(token)
        yield token


def kept(cache: BoundedCache) -> Int32:
    """True positions that every head holds, ascending: (layer, KV head, n)."""
    return np.sort(cache.positions(), axis=2)


def error(logits: npt.NDArray[Any], expected: npt.NDArray[Any]) -> float:
    """Largest difference, relative to the largest logit."""
    return float(np.abs(logits - expected).max() / np.abs(expected).max())


class Spy:
    """A policy that takes note of every view and fold, and is otherwise `policy`."""

    def __init__(self, policy: Any) -> None:
        self.policy = policy
        self.views: list[View] = []
        self.folds: list[int] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self.policy, name)

    def fold(self, acc: Any, observed: Any, n: int) -> Any:
        self.folds.append(n)
        return self.policy.fold(acc, observed, n)

    def select(self, view: View, **more: Any) -> npt.NDArray[np.bool_]:
        self.views.append(view)
        marks: npt.NDArray[np.bool_] = self.policy.select(view, **more)
        return marks
