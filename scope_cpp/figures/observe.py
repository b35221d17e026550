"""The attention of a generation while it runs, step by step."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from scope_cpp.engine.generate import Generation
from scope_cpp.errors import ScopeError
from scope_cpp.native import kv_evict

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Snapshot:
    """What the newest queries attended to.

    Attributes
    ----------
    step
        Tokens of the output that lie in the cache.
    pos
        int32 (L, H, n): true positions of the rows of each layer and KV head, -1 of dead ones.
    weights
        float32 (L, H, n): softmax weights, the mean over the queries and over the query heads
        of the KV head; they sum up to 1 over n.
    """

    step: int
    pos: NDArray[np.int32]
    weights: NDArray[np.float32]


class Evenly(Generic[T]):
    """At most `most` things by step, evenly spaced, however many steps there will be.

    Whenever there is one too many, every other one is dropped, and the distance doubled.
    """

    def __init__(self, most: int) -> None:
        self.most, self.stride = most, 1
        self.by_step: dict[int, T] = {}

    def wants(self, step: int) -> bool:
        """Whether something of this step would be kept."""
        return step % self.stride == 0

    def add(self, step: int, thing: T) -> None:
        """Keep it, and thin out."""
        self.by_step[step] = thing
        while len(self.by_step) > self.most:
            self.stride *= 2
            self.by_step = {s: kept for s, kept in self.by_step.items() if self.wants(s)}


@dataclass
class Row:
    """Attention summed over some steps.

    Attributes
    ----------
    n_past
        Tokens in the sequence after the last of them.
    n_steps
        How many they are.
    attention
        float64 (n_past,): weights by position, summed over the steps.
    kept
        bool (n_past,): whether the head had the position at any of them.
    """

    n_past: int
    n_steps: int
    attention: NDArray[np.float64]
    kept: NDArray[np.bool_]

    def add(self, later: Row) -> None:
        """Take in the steps that follow."""
        later.attention[: self.n_past] += self.attention
        later.kept[: self.n_past] |= self.kept
        self.attention, self.kept = later.attention, later.kept
        self.n_past = later.n_past
        self.n_steps += later.n_steps


class Rows:
    """At most `most` rows of equally many steps, however many steps there will be.

    When there is one too many, each two are made one.
    """

    def __init__(self, most: int) -> None:
        self.most, self.stride = most, 1
        self.rows: list[Row] = []

    def add(self, n_past: int, pos: NDArray[np.int32], weights: NDArray[np.float32]) -> None:
        """Add a step: the positions (n,) of a head's rows, -1 of dead ones, and weights (n,)."""
        alive = pos >= 0
        step = Row(n_past, 1, np.zeros(n_past), np.zeros(n_past, np.bool_))
        step.attention[pos[alive]], step.kept[pos[alive]] = weights[alive], True
        if self.rows and self.rows[-1].n_steps < self.stride:
            self.rows[-1].add(step)
            return
        self.rows.append(step)
        if len(self.rows) > self.most:
            self.stride *= 2
            later = self.rows[1::2]
            self.rows = self.rows[::2]
            for row, other in zip(self.rows, later, strict=False):
                row.add(other)

    def arrays(self) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """Return mean weights, NaN where there is no position, and what was kept: (row, n)."""
        shape = len(self.rows), self.rows[-1].n_past
        attention, kept = np.full(shape, np.nan), np.zeros(shape, np.bool_)
        for i, row in enumerate(self.rows):
            attention[i, : row.n_past] = row.attention / row.n_steps
            kept[i, : row.n_past] = row.kept
        return attention, kept


def observe(
    generation: Generation, n_queries: int, wants: Callable[[int], bool]
) -> Iterator[Snapshot]:
    """Run a generation to its end and yield a snapshot of each step that is wanted.

    Parameters
    ----------
    generation
        Not iterated over yet.
    n_queries
        Newest queries of a snapshot. More than one are right only where nothing is evicted: an
        older query would be weighed against rows that were not where they are now.
    wants
        Takes a step.

    Raises
    ------
    ScopeError
        If the attention can't be read, or the output ends before its second token is decoded.
    """
    cache = generation.cache
    generation.context.record_queries(n_queries)
    for _ in generation:
        step = cache.n_past - cache.n_prompt
        if step and wants(step):
            yield _snapshot(generation, step, n_queries)
    n = cache.n_past - cache.n_prompt
    if n < 2:
        raise ScopeError(
            f"the model ended after {n + 1} tokens, too few to draw: try other prompts"
        )


def _snapshot(generation: Generation, step: int, n_queries: int) -> Snapshot:
    ptr, cache = generation.context.ptr, generation.cache
    labels, ids, _ = kv_evict.cells(ptr, cache.seq)
    n = min(n_queries, kv_evict.n_queries(ptr, cache.seq))
    group = kv_evict.n_head(ptr) // kv_evict.n_head_kv(ptr)
    weights = kv_evict.scores(ptr, cache.seq, n, ids) / np.float32(n * group)
    pos = cache.positions().copy() if cache.bounded else np.broadcast_to(labels, weights.shape)
    return Snapshot(step, pos, weights)


def describe(generation: Generation, model: str) -> str:
    """Say what is run, for a title: model, cache, lengths."""
    sizes, settings = generation.sizes, generation.settings
    cells = "full cache"
    if sizes.bounded:
        cells = f"{sizes.decode.name}, {sizes.capacity} cells"
        if settings.prefill != "full":
            cells += f", prefill {settings.prefill}"
        if settings.granularity != "head":
            cells += f", by {settings.granularity}"
    return f"{model}, {cells}, prompt of {len(generation.tokens)} tokens, greedy"
