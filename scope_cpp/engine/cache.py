"""The bounded cache of one sequence: feeds the policies and evicts what they give up.

Nothing else in scope-cpp removes cells. The budget is hard: `make_room` is called before tokens
are decoded, so that the cells in use never exceed the capacity, not even for a moment.
"""

from __future__ import annotations

import io
import time
import zipfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scope_cpp.engine.context import Context
from scope_cpp.engine.ledger import Ledger
from scope_cpp.engine.plan import plan_eviction
from scope_cpp.errors import ScopeError
from scope_cpp.native import kv_evict
from scope_cpp.native.library import llama_cpp
from scope_cpp.policies.base import DecodePolicy, Policy, PrefillPolicy, Step, View

Keep = NDArray[np.bool_]
Keep1 = NDArray[np.bool_]
Observed = NDArray[np.float32]

# Queries that are recorded per sequence. Those of a longer interval are scored in several calls.
DECODE_QUERIES = 32
PROMPT_QUERIES = 64


@dataclass
class CacheStats:
    """Counters of one sequence.

    Attributes
    ----------
    cells_used, cells_peak
        Cells now and at most.
    evicted, selections
        Cells freed; how often a policy chose.
    attention_loss
        Share of the attention, in the queries scored at a selection, that fell on rows which that
        selection gave up: the mean over selections, 0 where the policy reads no attention.
    score_seconds, select_seconds, move_seconds
        Time in native scores, in the policy, in native moves.
    """

    cells_used: int = 0
    cells_peak: int = 0
    evicted: int = 0
    selections: int = 0
    attention_loss: float = 0.0
    score_seconds: float = 0.0
    select_seconds: float = 0.0
    move_seconds: float = 0.0


class BoundedCache:
    """Cells of one sequence within a capacity.

    Parameters
    ----------
    context
        Its cache holds at least `capacity` cells for this sequence.
    capacity
        Most cells that the sequence may use.
    decode, prefill
        Resolved policies.
    whole_cells
        One choice for all layers and heads, from scores pooled by their maximum over the layers
        and the query heads.
    n_predict
        Longest output, ``None`` if unknown.
    bounded
        False if everything fits: nothing is recorded, chosen or evicted.
    """

    def __init__(
        self,
        context: Context,
        capacity: int,
        decode: DecodePolicy,
        prefill: PrefillPolicy,
        *,
        whole_cells: bool = False,
        n_predict: int | None = None,
        bounded: bool = True,
        seq: int = 0,
    ) -> None:
        self.context, self.capacity, self.seq = context, capacity, seq
        self.decode_policy, self.prefill_policy = decode, prefill
        self.whole_cells, self.n_predict, self.bounded = whole_cells, n_predict, bounded
        self.stats = CacheStats()
        self.n_past = 0
        self.n_prompt = 0
        self.n_prompt_cells = 0
        self._since = 0
        self._unscored = 0
        self._observed: Observed | None = None
        self._reads_prompt = bounded and (prefill.needs_scores or decode.reads_prompt)
        ptr = context.ptr
        n_layer, n_head_kv = kv_evict.n_layer(ptr), kv_evict.n_head_kv(ptr)
        n_head_scored = kv_evict.n_head(ptr) if whole_cells else n_head_kv
        self._ledger = Ledger.empty(n_layer, n_head_kv, n_head_scored)
        self._ring = self._ring_size() if bounded else 0
        context.record_queries(self._ring)

    def _ring_size(self) -> int:
        windows = _fixed_window(self.prefill_policy), _fixed_window(self.decode_policy)
        if self._reads_prompt:
            return max(PROMPT_QUERIES, *windows)
        # one query even where no attention is read: moves need the native state
        return max(DECODE_QUERIES, *windows) if self._scored else 1

    @property
    def _scored(self) -> bool:
        return self.decode_policy.needs_scores

    # -- tokens ---------------------------------------------------------------------------

    def prefill(self, tokens: Sequence[int]) -> None:
        """Read the prompt, within the capacity, and choose what of it stays.

        Raises
        ------
        ScopeError
            If the prompt has no room and the prefill policy keeps all of it.
        """
        policy = self.prefill_policy
        needed = policy.cells(len(tokens)) if self.bounded else len(tokens)
        if needed > self.capacity:
            raise ScopeError(f"the prompt needs {needed} cells, the capacity is {self.capacity}")
        self.n_prompt = len(tokens)
        size = self.context.n_batch
        if self._reads_prompt:
            size = max(1, min(self._ring, self.capacity // 4))
        for start in range(0, len(tokens), size):
            chunk = tokens[start : start + size]
            room = self.capacity - len(chunk)
            if self.stats.cells_used > room:
                self._select(policy, lambda view: policy.select(view, final=False), room)
            if self._reads_prompt:
                reader = policy if policy.needs_scores else self.decode_policy
                self._score_if_summed(reader, len(chunk))
            self._decode(chunk)
        if self.bounded and policy.cells(self.n_prompt) < self.stats.cells_used:
            self._select(policy, lambda view: policy.select(view, final=True), self.capacity)
        self.n_prompt_cells = self.stats.cells_used
        self._since = 0
        if not self.decode_policy.reads_prompt:
            self._unscored = 0

    def adopt(self, n_prompt: int) -> None:
        """Take over the cells that the sequence has already, `n_prompt` of them its prompt.

        For a prompt that another sequence has read (``llama_memory_seq_cp``).
        """
        self._cells()
        labels = self._ledger.labels
        self.n_past = int(labels[-1]) + 1 if labels.size else 0
        self.n_prompt = self.n_prompt_cells = n_prompt
        self.stats.cells_used = self.stats.cells_peak = labels.size
        kv_evict.forget(self.context.ptr, self.seq)

    def decode(self, token: int) -> None:
        """Make room for one more token and decode it."""
        self._make_room()
        if self.bounded and self._scored:
            self._score_if_summed(self.decode_policy, 1)
        self._decode([token])

    def _make_room(self) -> None:
        full = self.stats.cells_used >= self.capacity
        if not self.bounded:
            if full:
                raise ScopeError(f"all {self.capacity} cells are in use: give a larger --budget")
            return
        if full or self.decode_policy.due(self._step()):
            self._select(self.decode_policy, self.decode_policy.select, self.capacity - 1)

    def _step(self) -> Step:
        return Step(
            n_prompt=self.n_prompt,
            n_past=self.n_past,
            n_predict=self.n_predict,
            n_prompt_cells=self.n_prompt_cells,
            n_cells=self.stats.cells_used,
            capacity=self.capacity,
            since=self._since,
        )

    def _decode(self, tokens: Sequence[int]) -> None:
        self.context.decode(tokens, self.n_past, self.seq)
        n = len(tokens)
        self.n_past += n
        self._since += n
        self._unscored += n
        self.stats.cells_used += n
        self.stats.cells_peak = max(self.stats.cells_peak, self.stats.cells_used)

    # -- attention ------------------------------------------------------------------------

    def _score_if_summed(self, policy: Policy, n_next: int) -> None:
        """Score before the next queries overwrite others, where the policy sums over all."""
        overwritten = self._unscored + n_next > self._ring
        if overwritten and policy.n_queries(self._unscored) >= self._unscored:
            self._score(policy, self._cells()[0])

    def _cells(self) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
        labels, ids, shared = kv_evict.cells(self.context.ptr, self.seq)
        self._ledger.sync(labels)
        return ids, shared

    def _score(self, policy: Policy, ids: NDArray[np.int32]) -> None:
        """Fold the attention of queries that were not scored yet into the ledger."""
        started = time.perf_counter()
        recorded = kv_evict.n_queries(self.context.ptr, self.seq)
        n = min(policy.n_queries(self._unscored), recorded)
        if n > 0:
            self._observed = kv_evict.scores(
                self.context.ptr, self.seq, n, ids, by_head=self.whole_cells
            )
            self._ledger.scores = policy.fold(self._ledger.scores, self._observed, n)
            self._unscored = 0
        self.stats.score_seconds += time.perf_counter() - started

    # -- eviction -------------------------------------------------------------------------

    def _select(self, policy: Policy, select: Callable[[View], Keep], limit: int) -> None:
        ids, shared = self._cells()
        self._observed = None
        if policy.needs_scores:
            self._score(policy, ids)
        started = time.perf_counter()
        keep = self._choose(select, limit, shared)
        self._count(keep)
        plan = plan_eviction(keep)
        chosen = time.perf_counter()
        kv_evict.apply(self.context.ptr, self.seq, ids[plan.src], ids[plan.dst], ids[plan.free])
        self._ledger.apply(plan)
        self._since = 0
        self.stats.cells_used -= plan.free.size
        self.stats.evicted += plan.free.size
        self.stats.select_seconds += chosen - started
        self.stats.move_seconds += time.perf_counter() - chosen

    def _choose(self, select: Callable[[View], Keep], limit: int, shared: Keep1) -> Keep:
        """Ask the policy about the cells that are this sequence's own; shared ones stay."""
        own = np.flatnonzero(~shared)
        pos, scores = self._ledger.pos[:, :, own], self._ledger.scores[:, :, own]
        if self.whole_cells:
            pos = self._ledger.labels[None, None, own]
            scores = scores.max(axis=(0, 1), keepdims=True)
        limit -= int(shared.sum())
        if limit < 1:
            raise ScopeError(f"all {self.capacity} cells are shared: give a larger --budget")
        view = View(pos, scores, self.n_prompt, self.n_past, self.n_predict, limit)
        chosen = select(view)
        if int(chosen.sum(axis=2).max()) > limit or not chosen[:, :, -1].all():
            raise ScopeError("the policy kept more cells than allowed, or not the newest")
        keep = np.ones(self._ledger.pos.shape, np.bool_)
        keep[:, :, own] = chosen
        return keep

    def _count(self, keep: Keep) -> None:
        """Update the attention loss."""
        stats = self.stats
        stats.selections += 1
        if self._observed is None:
            return
        given_up = np.repeat(~keep, self._observed.shape[1] // keep.shape[1], axis=1)
        total = float(self._observed.sum())
        lost = float(self._observed[given_up].sum()) / total if total > 0 else 0.0
        stats.attention_loss += (lost - stats.attention_loss) / stats.selections

    def positions(self) -> NDArray[np.int32]:
        """Return the true positions of the rows of each head: int32 (layer, KV head, n)."""
        self._cells()
        return self._ledger.pos

    # -- state ----------------------------------------------------------------------------

    def rollback(self, n_tokens: int) -> None:
        """Forget the last `n_tokens` tokens.

        Raises
        ------
        ScopeError
            If one of them, or a token before them that must be the newest again, was evicted or
            has been moved: only tokens of the recent window can be taken back.
        """
        n_past = self.n_past - n_tokens
        self._cells()
        ledger = self._ledger
        last = ledger.labels >= n_past - 1
        intact = (ledger.pos[:, :, last] == ledger.labels[last]).all()
        if n_tokens < 0 or int(last.sum()) != n_tokens + 1 or not intact:
            raise ScopeError(f"{n_tokens} tokens can't be taken back: some were evicted")
        llama_cpp.llama_memory_seq_rm(self.context.memory, self.seq, n_past, -1)
        self.n_past = n_past
        self.stats.cells_used -= n_tokens
        self._since = max(0, self._since - n_tokens)
        self._unscored = max(0, self._unscored - n_tokens)
        self._cells()

    def snapshot(self) -> bytes:
        """State from which `restore` goes on with the same tokens, bit by bit."""
        self._cells()
        counters = [self.n_past, self.n_prompt, self.n_prompt_cells, self._since, self._unscored]
        native = np.frombuffer(kv_evict.state_get(self.context.ptr, self.seq), np.uint8)
        buffer = io.BytesIO()
        ledger = vars(self._ledger)
        np.savez(buffer, native=native, counters=counters, stats=_numbers(self.stats), **ledger)
        return buffer.getvalue()

    def restore(self, state: bytes) -> None:
        """Take up a `snapshot` of a cache with the same model, policies and KV types.

        Raises
        ------
        ScopeError
            If it is none; the cache goes on as it was.
        """
        saved = _read(state)
        kv_evict.state_set(self.context.ptr, self.seq, saved["native"].tobytes())
        counters = [int(n) for n in saved["counters"]]
        self._ledger = Ledger(saved["labels"], saved["pos"], saved["scores"])
        for item, value in zip(fields(CacheStats), saved["stats"], strict=True):
            whole = isinstance(item.default, int)
            setattr(self.stats, item.name, int(value) if whole else float(value))
        self.n_past, self.n_prompt, self.n_prompt_cells, self._since, self._unscored = counters


def _fixed_window(policy: Policy) -> int:
    """Return the queries that the policy wants however many are new; 0 if it sums over all."""
    return 0 if policy.n_queries(2**30) == 2**30 else policy.n_queries(1)


def _read(state: bytes) -> dict[str, NDArray[Any]]:
    names = ("native", "counters", "stats", "labels", "pos", "scores")
    try:
        with np.load(io.BytesIO(state), allow_pickle=False) as saved:
            return {name: saved[name] for name in names}
    except (ValueError, KeyError, OSError, EOFError, zipfile.BadZipFile, zlib.error) as err:
        raise ScopeError("this is no saved state of a bounded cache, or it is damaged") from err


def _numbers(stats: CacheStats) -> list[float]:
    return [float(getattr(stats, item.name)) for item in fields(stats)]
