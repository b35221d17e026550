"""The bounded cache of one sequence: feeds the policies and evicts what they give up.

Nothing else in scope-cpp removes cells. The budget is hard: room is made before tokens are
decoded, so that the cells in use never exceed the capacity, not even for a moment.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import replace
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from scope_cpp.engine.cache.eviction import HeldCells, Keep
from scope_cpp.engine.cache.ledger import pooled
from scope_cpp.engine.cache.marks import Beside, Mark
from scope_cpp.engine.cache.scorer import ring_size
from scope_cpp.engine.cache.stats import CacheStats
from scope_cpp.engine.context import Context
from scope_cpp.engine.footprint import Use, measure
from scope_cpp.engine.interrupts import whole_step
from scope_cpp.errors import ScopeError
from scope_cpp.native import kv_evict
from scope_cpp.policies.base import DecodePolicy, Policy, PrefillPolicy, Step

Observed = NDArray[Any]
# what is to be decoded next, one batch after the other
Steps: TypeAlias = Generator[Sequence[int], None, None]


class BoundedCache(HeldCells):
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
    n_queries
        Queries to record at least, for policies that may come later (`set_policies`).

    Attributes
    ----------
    n_last, last_beside
        Tokens of the last part that `read` decoded; windows and recurrent states before it, if
        there are any.
    logits_at
        Position after the token whose logits the context has; -1 where it has none.
    footprint
        What the context takes, and what choosing among its cells does.
    n_computed, computed
        Tokens that were decoded so far, those included that were taken back; called after some.
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
        n_queries: int = 0,
    ) -> None:
        super().__init__(context, capacity, seq, whole_cells, n_predict)
        self.decode_policy, self.prefill_policy, self.bounded = decode, prefill, bounded
        self.n_last, self.logits_at, self.n_computed = 0, -1, 0
        self.computed: Callable[[], None] = lambda: None
        self.last_beside: Beside | None = None
        self._unread: Sequence[int] = ()
        self._n_chunk = 0
        self.ledger.hold(decode.row)
        if bounded:
            self.scorer.ring = max(n_queries, self._n_recorded())
        self._record_queries(self.scorer.ring)

    # -- tokens ---------------------------------------------------------------------------

    def prefill(self, tokens: Sequence[int]) -> None:
        """Read the prompt, within the capacity, and choose what of it stays.

        Raises
        ------
        ScopeError
            If the prompt has no room and the prefill policy keeps all of it.
        """
        self.begin_prompt(tokens)
        size = self.context.n_ubatch  # as llama.cpp cuts it itself: `computed` is told of each part
        while chunk := self.next_chunk():
            for start in range(0, len(chunk), size):
                self._decode(chunk[start : start + size])

    def begin_prompt(self, tokens: Sequence[int]) -> None:
        """Begin to read the prompt; `next_chunk` tells what to decode. Raises as `prefill` does.

        What the sequence has of it already (`adopt`) is not read again.
        """
        needed = self.prefill_policy.cells(len(tokens)) if self.bounded else len(tokens)
        if needed > self.capacity:
            raise ScopeError(f"the prompt needs {needed} cells, the capacity is {self.capacity}")
        if self.prefill_policy.needs_scores:
            self.ledger.hold(self.prefill_policy.row)
        self.n_prompt = len(tokens)
        self._unread = tokens[self.n_past :]
        self._begin_reading(len(tokens), len(tokens))

    def next_chunk(self) -> Sequence[int]:
        """Make room for the next tokens of the prompt, and return them.

        The caller decodes them, at once or in parts, and says so (`decoded`). Empty once all were:
        what of the prompt stays was chosen then, and the output begins.
        """
        policy = self.prefill_policy
        if self._n_chunk:
            self._collect(self._n_chunk)
        size = self._chunk_size(len(self._unread), self.most_at_once(policy))
        chunk = self._unread[:size]
        self._unread, self._n_chunk = self._unread[len(chunk) :], len(chunk)
        if not chunk:
            self._end_prompt()
            return chunk
        room = self.capacity - len(chunk)
        if self.stats.cells_used > room:
            self.evict_by(policy, lambda view: policy.select(view, final=False), room)
        if self._reads_prompt:
            reader = policy if policy.needs_scores else self.decode_policy
            self._score_if_due(reader, len(chunk))
        return chunk

    def most_at_once(self, policy: Policy) -> int:
        """Tokens of a prompt that `policy` lets in before it makes room for the next ones.

        Where attention is read on the way, no more than there are queries recorded. It follows
        from the policies and the capacity alone, so that what stays does not depend on llama.cpp's
        batches.
        """
        most = policy.chunk(self.capacity)
        if not self._reads_prompt:
            return most
        return max(1, min(most, self._n_recorded(), self.capacity // 4))

    def _n_recorded(self) -> int:
        """Queries that the policies want recorded."""
        return ring_size(self.decode_policy, self.prefill_policy, self._reads_prompt, self.capacity)

    @property
    def _reads_prompt(self) -> bool:
        """Whether a policy reads the attention that the prompt's own queries pay."""
        reads = self.prefill_policy.needs_scores or self.decode_policy.reads_prompt
        return self.bounded and reads

    def _end_prompt(self) -> None:
        """Choose what of the prompt stays, and begin the output."""
        policy = self.prefill_policy
        if self.bounded and self._must_drop(policy):
            self.evict_by(policy, lambda view: policy.select(view, final=True), self.capacity)
        self.n_prompt_cells = self.stats.cells_used
        self.since = 0
        self._begin_scores()
        self._look_ahead()
        if not self.decode_policy.reads_prompt:
            self.scorer.unscored = 0
        self.scorer.unweighed = 0

    def _must_drop(self, policy: PrefillPolicy) -> bool:
        """Whether the prompt's pool is smaller than what is there, in some layer at least."""
        if policy.cells(self.n_prompt) < self.stats.cells_used:
            return True
        return policy.uneven and not policy.keeps_all(self.n_prompt)

    def set_policies(
        self,
        decode: DecodePolicy,
        prefill: PrefillPolicy,
        whole_cells: bool,
        bounded: bool,
        n_queries: int = 0,
    ) -> None:
        """Choose by other policies from now on; parameters as for the class.

        Raises
        ------
        ScopeError
            If they need more queries than are recorded, the cache can't be bounded, or whole cells
            are to go while some layers have dead rows; nothing is changed then.
        """
        if whole_cells and self.ledger.dead.any():
            raise ScopeError(
                "layers hold different numbers of rows: --granularity head must stay as it is"
            )
        self.settle()
        before = self.decode_policy, self.prefill_policy, self.whole_cells, self.bounded
        self.decode_policy, self.prefill_policy = decode, prefill
        self.whole_cells, self.bounded = whole_cells, bounded or self.bounded
        ring = 0
        if self.bounded:
            ring = max(n_queries, self._n_recorded())
        try:
            self._record_queries(ring)
        except ScopeError:
            self.decode_policy, self.prefill_policy, self.whole_cells, self.bounded = before
            raise
        self.scorer.ring = max(self.scorer.ring, ring)
        if before[2] != whole_cells:
            self.scorer.keep_by_head(whole_cells, self.ledger)
            self.marks.forget_scores()
        if self.ledger.row != decode.row:
            self.ledger.hold(decode.row)
            self.marks.forget_scores()

    def _record_queries(self, n: int) -> None:
        """Record the last `n` queries of this sequence from now on; none if that is 0.

        What choosing takes in llama.cpp is allocated now: it does not grow any more.
        """
        self.context.record_queries(n)
        if n:
            kv_evict.bind(self.context.ptr, self.seq)
            kv_evict.reserve(self.context.ptr, self.use.needs(self.context))
        self.footprint = measure(self.context, self.use if self.bounded else None, asked=False)

    @property
    def use(self) -> Use:
        """Who chooses the cells."""
        ring = max(self.scorer.ring, self.context.n_recorded)
        return Use(self.decode_policy, self.prefill_policy, ring, self.whole_cells)

    def begin_turn(self) -> None:
        """Let what comes next be independent of which queries are still recorded.

        Attention that was not scored yet is folded into the scores; counts of selections and
        times begin anew. The queries of the prompt before weigh nothing of the next one.
        """
        self.settle()
        self.scorer.foresight.end()
        was = self.stats
        self.stats = CacheStats(was.cells_used, was.cells_peak, was.dead_rows)

    def read(
        self, tokens: Sequence[int], size: int, make_room: Callable[[int], None] | None = None
    ) -> Steps:
        """Read tokens of a later prompt, `size` at a time; the policy evicts nothing meanwhile.

        llama.cpp gets them in parts of about its physical batch: Ctrl-C waits for one of them.

        Parameters
        ----------
        tokens
            Not empty.
        size
            Most tokens of a batch.
        make_room
            Called with the length of each batch before it is decoded; it evicts what may go.

        Yields
        ------
        tokens
            Of each batch. The caller decodes them, at once or in parts, and says so (`decoded`).

        Raises
        ------
        ScopeError
            If there is no room; the tokens before the batch stay read.
        """
        reads = self.bounded and self.decode_policy.reads_prompt
        if reads:
            size = min(size, self.most_at_once(self.decode_policy))
        self._begin_reading(len(tokens), self.n_past + len(tokens))
        start = 0
        while start < len(tokens):
            chunk = tokens[start : start + self._chunk_size(len(tokens) - start, size)]
            start += len(chunk)
            if make_room is not None:
                make_room(len(chunk))
            if self.stats.cells_used + len(chunk) > self.capacity:
                raise ScopeError(f"all {self.capacity} cells are in use")
            if reads:
                self._score_if_due(self.decode_policy, len(chunk))
            *before, last = self._parts(chunk)
            yield from before
            if start == len(tokens):
                self.last_beside = self.beside()
            yield last
            self._collect(len(chunk))
            self.n_last = len(last)

    def _parts(self, tokens: Sequence[int]) -> list[Sequence[int]]:
        """Cut tokens into physical batches, the last of which fills the recorded queries.

        It is what is read again where a conversation goes back to the end of a prompt.
        """
        size = max(self.context.n_ubatch, self.scorer.ring)
        starts = list(range(0, len(tokens), size))
        if len(starts) > 1:
            starts[-1] = min(starts[-1], len(tokens) - max(1, self.scorer.ring))
        return [tokens[a:b] for a, b in zip(starts, [*starts[1:], len(tokens)], strict=True)]

    def run(self, steps: Steps) -> None:
        """Decode what `steps` wants, alone; a Ctrl-C waits for the end of a step."""
        with closing(steps):
            while True:
                with whole_step():
                    tokens = next(steps, None)
                    if tokens is None:
                        return
                    self._decode(tokens)

    def beside(self) -> Beside | None:
        """Windows and recurrent states as they are now; ``None`` without any."""
        if not self.context.has_beside:
            return None
        known = self.marks.beside(self.n_past)
        return known or Beside(self.n_past, self.context.read_state(self.seq, beside=True))

    def begin_output(self, n_predict: int | None) -> None:
        """End a prompt: all that was read and written so far is the prompt of what follows.

        Only the queries of what was `read` last may be asked again (`scores.foresight`).
        """
        self.n_prompt, self.n_predict = self.n_past, n_predict
        self.n_prompt_cells = self.stats.cells_used
        if self.bounded and self.decode_policy.reads_prompt:
            self.settle()
        self._begin_scores()
        self._look_ahead()
        self.since = self.scorer.unscored = self.scorer.unweighed = 0

    def _begin_scores(self) -> None:
        """Let a decode policy that scores rows know that all of them are the prompt's now."""
        if not (self.bounded and self.decode_policy.needs_scores):
            return
        self.sync()
        self.ledger.hold(self.decode_policy.row)
        self.ledger.scores = self.decode_policy.begin_output(self.ledger.scores)

    @property
    def foresees(self) -> bool:
        """Whether new cells of the output are weighed before they are used."""
        return self.bounded and bool(self.decode_policy.ahead or self.decode_policy.unlike)

    def _begin_reading(self, n_read: int, n_end: int) -> None:
        """Note that a prompt of `n_read` tokens ends before position `n_end`."""
        ahead = self.decode_policy.ahead if self.bounded else 0
        # the queries are kept as they would be behind the prompt, as far as cells can be held
        self.scorer.foresight.begin_prompt(ahead, n_read, n_end, n_end + self.capacity)

    def _collect(self, n: int) -> None:
        """Keep the queries of the last `n` tokens of a prompt, if they are to be asked again."""
        self.scorer.foresight.collect(min(n, self.scorer.ring), self.n_past)

    def _chunk_size(self, n_left: int, size: int) -> int:
        """Tokens of a prompt to read at once, of `n_left`: queries to be kept fit into the ring."""
        return self.scorer.foresight.chunk_size(n_left, size, self.scorer.ring)

    def _look_ahead(self) -> None:
        """Let the queries that were collected weigh the output, if the policy wants them."""
        if self.foresees:
            if self.decode_policy.reads_prompt:
                self.settle()
            self.scorer.foresight.begin()
        else:
            self.scorer.foresight.end()
        self.stats.query_bytes = self.scorer.foresight.n_bytes

    def make_room_by_policy(self, n: int) -> None:
        """Let the decode policy choose what goes, if `n` more cells are not there."""
        room = self.capacity - n
        if self.stats.cells_used > room:
            self.evict_by(self.decode_policy, self.decode_policy.select, room)

    def evict(self, choose: Callable[[NDArray[np.int32], Observed], Keep]) -> int:
        """Free the cells of rows that `choose` does not keep; return how many cells that were.

        `choose` takes positions and scores, (layer, KV head, n) each, and marks the rows that
        stay, as many for each head. Of whole cells it sees one head: labels, and the maximum.
        """
        ids, shared = self.sync()
        keep = self.by_row(choose(*self.ledger.ranked(self.whole_cells)))
        if not keep[:, :, shared].all():
            raise ScopeError("cells that another sequence has can't be given up")
        return self.free(keep & (self.ledger.pos >= 0), ids)

    def observed(self, policy: Policy, n: int) -> Observed:
        """Scores as `policy` would make them of the last `n` queries; nothing is changed."""
        ids, _ = self.sync()
        scores = self.scorer.folded(policy, self.ledger, ids, n)
        return pooled(scores) if self.whole_cells else scores

    def settle(self) -> None:
        """Fold what the decode policy has not scored yet, and weigh what waits for it."""
        waiting = self.scorer.unscored or self.scorer.unweighed
        scored = self.decode_policy.needs_scores and waiting
        if self.bounded and scored and self.stats.cells_used:
            self.score(self.decode_policy, self.sync()[0])

    def adopt(self, n_prompt: int) -> None:
        """Take over the cells that the sequence has already, `n_prompt` of them its prompt.

        For a prompt that another sequence has read (``llama_memory_seq_cp``). Its queries are not
        known here: a policy with ``ahead`` ranks by what the output's own queries say.
        """
        self.sync()
        labels = self.ledger.labels
        self.n_past = int(labels[-1]) + 1 if labels.size else 0
        self.n_prompt = self.n_prompt_cells = n_prompt
        self.stats.cells_used = self.stats.cells_peak = labels.size
        kv_evict.forget(self.context.ptr, self.seq)

    def take_rows(self, other: BoundedCache, n_past: int, marks: Sequence[Mark]) -> None:
        """Take over what another cache knows of its first `n_past` tokens; copies are here."""
        other.sync()
        ledger = other.ledger
        there = ledger.labels < n_past
        self.ledger = replace(
            ledger,
            labels=ledger.labels[there],
            pos=ledger.pos[:, :, there],
            scores=ledger.scores[..., there],
        )
        self.counters = (n_past, *other.counters[1:4], 0, 0)
        self.stats = replace(other.stats, cells_used=int(there.sum()))
        self.scorer.foresight.asked = other.scorer.foresight.asked
        self.marks.keep(marks)
        kv_evict.forget(self.context.ptr, self.seq)

    def decode(self, token: int) -> None:
        """Make room for one more token and decode it."""
        with whole_step():
            self.make_room()
            self._decode([token])

    def make_room(self) -> None:
        """Make room for one more token of the output, which the caller decodes (`decoded`)."""
        self._make_room()
        if self.bounded and self.decode_policy.needs_scores:
            self._score_if_due(self.decode_policy, 1)

    def _make_room(self) -> None:
        full = self.stats.cells_used >= self.capacity
        if not self.bounded:
            if full:
                raise ScopeError(f"all {self.capacity} cells are in use: give a larger --budget")
            return
        if full or self.decode_policy.due(self._step()):
            self.evict_by(self.decode_policy, self.decode_policy.select, self.capacity - 1)

    def _step(self) -> Step:
        return Step(
            n_prompt=self.n_prompt,
            n_past=self.n_past,
            n_predict=self.n_predict,
            n_prompt_cells=self.n_prompt_cells,
            n_cells=self.stats.cells_used,
            capacity=self.capacity,
            since=self.since,
        )

    def _decode(self, tokens: Sequence[int]) -> None:
        self.compute(tokens)
        self.decoded(len(tokens))

    def compute(self, tokens: Sequence[int]) -> None:
        """Decode tokens from position `n_past` on, without accounting for them (`decoded`)."""
        self.logits_at = -1
        self.context.decode(tokens, self.n_past, self.seq)
        self.logits_at = self.n_past + len(tokens)
        self.n_computed += len(tokens)
        self.computed()

    def decoded(self, n: int) -> None:
        """Account for `n` tokens that were decoded from position `n_past` on."""
        self.n_past += n
        self.since += n
        self.scorer.unscored += n
        self.scorer.unweighed += n
        self.stats.cells_used += n
        self.stats.cells_peak = max(self.stats.cells_peak, self.stats.cells_used)

    # -- attention ------------------------------------------------------------------------

    def _score_if_due(self, policy: Policy, n_next: int) -> None:
        """Score before the next queries overwrite others, where the policy sums over all."""
        if self.scorer.is_due(policy, n_next):
            self.score(policy, self.sync()[0], settles=False)

    # -- state ----------------------------------------------------------------------------

    def clear(self) -> None:
        """Forget all tokens."""
        with whole_step():
            self.context.remove(self.seq)
            if self.bounded:
                kv_evict.forget(self.context.ptr, self.seq)
            self.sync()
            self.counters = (0,) * len(self.counters)
            self.scorer.foresight.end()
            self.stats = CacheStats()
            self.marks.forget_after(-1)

    @property
    def counters(self) -> tuple[int, ...]:
        """`CacheState.counters`."""
        scorer = self.scorer
        here = self.n_past, self.n_prompt, self.n_prompt_cells, self.since
        return *here, scorer.unscored, scorer.unweighed

    @counters.setter
    def counters(self, counters: Sequence[int]) -> None:
        """Take up what another cache, or an earlier moment, had."""
        self.n_past, self.n_prompt, self.n_prompt_cells, self.since, *waiting = counters
        self.scorer.unscored, self.scorer.unweighed = waiting
