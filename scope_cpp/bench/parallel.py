"""Texts that are written at once, by one engine, in one cache."""

from __future__ import annotations

from collections.abc import Hashable
from functools import partial
from typing import Any

from scope_cpp.bench.bounded import COUNTERS, GREEDY, describe, load
from scope_cpp.bench.fill import Filler, random_tokens
from scope_cpp.bench.row import Compute, Row
from scope_cpp.bench.sizes import settings_of
from scope_cpp.engine.cache.bounded import BoundedCache
from scope_cpp.engine.parallel import ParallelEngine, Request
from scope_cpp.native import kv_evict
from scope_cpp.native.library import llama_cpp


class ParallelRow:
    """Writes texts at a depth, their pools full; a step is a token of each."""

    def __init__(self, row: Row, compute: Compute) -> None:
        self.row, self.compute = row, compute
        self.model = load(compute)
        self.engine = ParallelEngine(
            self.model,
            n_parallel=row.n_rows + 1,  # a spare sequence to fill the cache with
            n_cells=row.cells,
            settings=settings_of(row, compute),
            warn=lambda line: None,
        )

    def prepare(self) -> dict[str, Any]:
        """Read the prompts, no two alike, and bring all texts to the depth."""
        row, engine = self.row, self.engine
        filler = None if row.fill == "decode" else self._filler()
        for i in range(row.n_rows):
            prompt = random_tokens(row.n_prompt, self.model.n_vocab, self.compute.seed + 1 + i)
            engine.submit(Request(tuple(prompt), row.n_predict, sampling=GREEDY), i)
        writing: set[Hashable] = set()
        while len(writing) < row.n_rows:
            writing |= {event.key for event in engine.step()}
        if filler is None:
            while min(cache.n_past for cache in engine.caches) < row.depth:
                engine.step()
        else:
            for cache in engine.caches:
                decode = partial(engine.context.decode, seq=cache.seq)
                _advance(cache, filler.into(cache.seq, row.n_rows, decode), row.depth)
        first = engine.caches[0]
        return describe(engine.context.ptr, first.decode_policy, first.prefill_policy)

    def _filler(self) -> Filler:
        """What fills the caches by copies."""
        context = self.engine.context
        tokens = random_tokens(self.row.n_prompt, self.model.n_vocab, self.compute.seed)
        filler = Filler(context.ptr, context.decode, tokens, context.n_batch)
        filler.take_chunk()
        kv_evict.forget(context.ptr, 0)
        return filler

    def step(self) -> None:
        """Write a token of each text."""
        said = self.engine.step()
        assert len(said) == self.row.n_rows

    def restore(self) -> None:
        """Nothing: the output goes on."""

    def counters(self) -> dict[str, float]:
        """Return the caches' running sums."""
        caches = self.engine.caches
        return {name: sum(getattr(cache.stats, name) for cache in caches) for name in COUNTERS}

    def state(self) -> dict[str, Any]:
        """Say what the cache is like after a block."""
        return {"cells_used": self.engine.cells_used(), "attention_loss": None}


def _advance(cache: BoundedCache, filler: Filler, depth: int) -> None:
    """Fill the pool of a row by copies, the last of which lies before the depth."""
    start, n_prompt, n_kept = cache.n_past, cache.n_prompt, cache.n_prompt_cells
    n = min(cache.capacity - cache.stats.cells_used, depth - start)
    filler.place(start, n)
    if n and depth > start + n:
        memory = cache.context.memory
        llama_cpp.llama_memory_seq_add(memory, cache.seq, start, -1, depth - start - n)
    cache.adopt(n_prompt)
    cache.n_prompt_cells = n_kept
