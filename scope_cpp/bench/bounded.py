"""Rows that run through the engine, as a user's text would."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

from scope_cpp.bench.fill import CHUNK, Filler, cells_without_gap, random_tokens
from scope_cpp.bench.row import Compute, Row
from scope_cpp.bench.sizes import settings_of, sizes_of
from scope_cpp.engine.cache.bounded import BoundedCache
from scope_cpp.engine.context import Context
from scope_cpp.engine.generate import Generation
from scope_cpp.engine.model import Model
from scope_cpp.engine.sampling import Sampler, SamplingParams
from scope_cpp.native import kv_evict
from scope_cpp.native.library import llama_cpp

COUNTERS = ("selections", "score_seconds", "select_seconds", "move_seconds")
GREEDY = SamplingParams(temp=0, ignore_eos=True)


def load(compute: Compute) -> Model:
    """Load the model."""
    return Model.load(compute.model, n_gpu_layers=compute.n_gpu_layers, use_mmap=compute.use_mmap)


def describe(ctx: Any, decode: Any, prefill: Any) -> dict[str, Any]:
    """Say what a bounded cache is."""
    return {
        "kv_mib": kv_evict.n_bytes(ctx) / 2**20,
        "cells_allocated": kv_evict.n_cells(ctx),
        "has_hooks": True,
        "policy": {"decode": asdict(decode), "prefill": asdict(prefill)},
    }


def counters(cache: BoundedCache) -> dict[str, float]:
    """Return the cache's running sums."""
    return {name: getattr(cache.stats, name) for name in COUNTERS}


def state(cache: BoundedCache) -> dict[str, Any]:
    """Say what the cache is like after a block."""
    ptr, stats = cache.context.ptr, cache.stats
    observed = cache.decode_policy.needs_scores and stats.selections
    return {
        "memory_mib": (cache.footprint.total + stats.query_bytes) / 2**20,
        "cells_used": kv_evict.n_used(ptr) or cells_without_gap(ptr),
        "attention_loss": stats.attention_loss if observed else None,
        "fits": fits(cache),
    }


def fits(cache: BoundedCache) -> bool:
    """Whether every token so far has its cell, and is attended to in all layers."""
    return cache.stats.cells_used >= cache.n_past and not cache.stats.dead_rows


class BoundedRow:
    """Generates at a depth, its pools full; a step is a token chosen and decoded."""

    def __init__(self, row: Row, compute: Compute) -> None:
        self.row, self.compute = row, compute
        self.model = load(compute)
        self.sizes = sizes_of(row, compute, self.model)
        params = settings_of(row, compute).context_params(self.sizes.capacity)
        # a second sequence to fill the cache with
        n_seqs = 1 if row.fill == "decode" else 2
        self.context = Context(self.model, replace(params, n_seq_max=n_seqs, n_slots=1))
        self.sampler = Sampler(self.model, GREEDY)
        self.cache = BoundedCache(
            self.context,
            self.sizes.capacity,
            self.sizes.decode,
            self.sizes.prefill,
            whole_cells=row.granularity == "cell",
            n_predict=row.n_predict,
            bounded=self.sizes.bounded,
        )
        n = max(row.n_prompt, CHUNK)
        self.tokens = random_tokens(n, self.model.n_vocab, compute.seed)

    def prepare(self) -> dict[str, Any]:
        """Bring the cache to the depth."""
        if self.row.fill == "decode":
            self._generate()
        else:
            self._copy()
        return describe(self.context.ptr, self.sizes.decode, self.sizes.prefill)

    def _generate(self) -> None:
        self.cache.prefill(self.tokens[: self.row.n_prompt])
        while self.cache.n_past < self.row.depth:
            self.step()

    def _copy(self) -> None:
        """Fill the pools by copies; the token before the depth is decoded, for its logits."""
        row, cache, context = self.row, self.cache, self.context
        filler = Filler(context.ptr, context.decode, self.tokens, context.n_batch)
        filler.take_chunk()
        kv_evict.forget(context.ptr, 0)
        kept = self.sizes.prefill.cells(row.n_prompt)
        pool = min(row.depth - row.n_prompt, self.sizes.capacity - kept)
        # a policy that asks the prompt's queries again needs a prompt that was read
        if row.fill == "read" or self.sizes.decode.ahead:
            cache.prefill(self.tokens[: row.n_prompt])
            kept = cache.n_prompt_cells
        else:
            filler.place(row.n_prompt - kept, kept - (pool == 0))
        filler.place(row.n_prompt, pool - (pool > 0))
        shift = row.depth - row.n_prompt - pool
        if pool > 1 and shift:
            llama_cpp.llama_memory_seq_add(context.memory, 0, row.n_prompt, -1, shift)
        cache.adopt(row.n_prompt)
        cache.n_prompt_cells = kept
        if cache.n_past < row.depth:
            cache.n_past = row.depth - 1
            cache.decode(self.tokens[0])

    def step(self) -> None:
        """Choose a token and decode it."""
        self.cache.decode(self.sampler.sample(self.context))

    def restore(self) -> None:
        """Nothing: the output goes on."""

    def counters(self) -> dict[str, float]:
        """Return the cache's running sums."""
        return counters(self.cache)

    def state(self) -> dict[str, Any]:
        """Say what the cache is like after a block."""
        return state(self.cache)


class PromptRow(BoundedRow):
    """Reads the prompt into an empty cache, up to the first token."""

    def prepare(self) -> dict[str, Any]:
        """Nothing is in the cache yet."""
        return describe(self.context.ptr, self.sizes.decode, self.sizes.prefill)

    def step(self) -> None:
        """Read the prompt and choose a token."""
        self.cache.prefill(self.tokens[: self.row.n_prompt])
        self.sampler.sample(self.context)

    def restore(self) -> None:
        """Empty the cache; what it held is noted first."""
        # where cells may be evicted, reading takes what it does not take in a full cache
        self._state = state(self.cache) | {"fits": not self.sizes.bounded}
        self.cache.clear()

    def state(self) -> dict[str, Any]:
        """Say what the cache was like after the reading."""
        return self._state


class PythonRow:
    """Writes a text through `Generation`, as `scope generate` does; a step is one response."""

    def __init__(self, row: Row, compute: Compute) -> None:
        self.model = load(compute)
        tokens = random_tokens(row.n_prompt, self.model.n_vocab, compute.seed)
        self.generation = Generation(
            self.model,
            tokens,
            n_predict=row.n_predict,
            settings=settings_of(row, compute),
            sampling=GREEDY,
            warn=lambda line: None,
        )

    def prepare(self) -> dict[str, Any]:
        """Read the prompt, up to the first token."""
        self.responses = iter(self.generation)
        next(self.responses)
        sizes = self.generation.sizes
        return describe(self.generation.context.ptr, sizes.decode, sizes.prefill)

    def step(self) -> None:
        """Take the next response."""
        next(self.responses)

    def restore(self) -> None:
        """Nothing: the output goes on."""

    def counters(self) -> dict[str, float]:
        """Return the cache's running sums."""
        return counters(self.generation.cache)

    def state(self) -> dict[str, Any]:
        """Say what the cache is like after a block."""
        return state(self.generation.cache)
