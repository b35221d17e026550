"""The bounded cache of one sequence: feeds the policies and evicts what they give up.

Nothing else in scope-cpp removes cells. The budget is hard: room is made before tokens are
decoded, so that the cells in use never exceed the capacity, not even for a moment.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from scope_cpp.engine.cache_state import CacheState, read_cells, write_cells
from scope_cpp.engine.cache_stats import CacheStats
from scope_cpp.engine.choice import choose
from scope_cpp.engine.context import Context
from scope_cpp.engine.interrupts import whole_step
from scope_cpp.engine.ledger import Ledger, pooled
from scope_cpp.engine.marks import Mark, Marks
from scope_cpp.engine.plan import plan_eviction
from scope_cpp.engine.scorer import Scorer, fixed_window, n_asked, ring_size
from scope_cpp.errors import ScopeError
from scope_cpp.native import kv_evict
from scope_cpp.native.library import llama_cpp
from scope_cpp.policies.base import DecodePolicy, Policy, PrefillPolicy, Step, View

Keep = NDArray[np.bool_]
Observed = NDArray[np.float32]


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
    n_queries
        Queries to record at least, for policies that may come later (`set_policies`).

    Attributes
    ----------
    stats
        Counters since the start, or since `begin_turn`.
    n_past, n_prompt, n_prompt_cells
        Tokens so far, those of them that are the prompt, and the cells that it kept.
    n_last
        Tokens of the last batch that `read` decoded.
    ledger
        What the rows hold, as of the last call that looked at the cells (`positions`).
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
        self.context, self.capacity, self.seq = context, capacity, seq
        self.decode_policy, self.prefill_policy = decode, prefill
        self.whole_cells, self.n_predict, self.bounded = whole_cells, n_predict, bounded
        self.stats = CacheStats()
        self.n_past = 0
        self.n_prompt = 0
        self.n_prompt_cells = 0
        self.n_last = 0
        self._unread: Sequence[int] = ()
        self._n_end = self._n_asked = self._n_chunk = 0
        self._since = 0
        self._marks = Marks()
        self._scorer = Scorer(context, seq, whole_cells)
        self._reads_prompt = bounded and (prefill.needs_scores or decode.reads_prompt)
        ptr = context.ptr
        n_layer, n_head_kv = kv_evict.n_layer(ptr), kv_evict.n_head_kv(ptr)
        n_head_scored = kv_evict.n_head(ptr) if whole_cells else n_head_kv
        self.ledger = Ledger.empty(n_layer, n_head_kv, n_head_scored)
        if bounded:
            self._scorer.ring = max(n_queries, ring_size(decode, prefill, self._reads_prompt))
        context.record_queries(self._scorer.ring)

    # -- tokens ---------------------------------------------------------------------------

    def prefill(self, tokens: Sequence[int]) -> None:
        """Read the prompt, within the capacity, and choose what of it stays.

        Raises
        ------
        ScopeError
            If the prompt has no room and the prefill policy keeps all of it.
        """
        self.begin_prompt(tokens)
        while chunk := self.next_chunk():
            self._decode(chunk)

    def begin_prompt(self, tokens: Sequence[int]) -> None:
        """Begin to read the prompt; `next_chunk` tells what to decode. Raises as `prefill` does.

        What the sequence has of it already (`adopt`) is not read again.
        """
        needed = self.prefill_policy.cells(len(tokens)) if self.bounded else len(tokens)
        if needed > self.capacity:
            raise ScopeError(f"the prompt needs {needed} cells, the capacity is {self.capacity}")
        self.n_prompt = len(tokens)
        self._unread = tokens[self.n_past :]
        self._begin_reading(len(tokens), len(tokens))

    def next_chunk(self) -> Sequence[int]:
        """Make room for the next tokens of the prompt, and return them.

        The caller decodes them, at once or in parts, and says so (`decoded`). Empty once all were:
        what of the prompt stays was chosen then, and the output begins.
        """
        policy, size = self.prefill_policy, min(self.context.n_batch, self.capacity)
        if self._reads_prompt:
            size = max(1, min(self._scorer.ring, self.capacity // 4))
        if self._n_chunk:
            self._collect(self._n_chunk)
        size = self._chunk_size(len(self._unread), size)
        chunk = self._unread[:size]
        self._unread, self._n_chunk = self._unread[len(chunk) :], len(chunk)
        if not chunk:
            self._end_prompt()
            return chunk
        room = self.capacity - len(chunk)
        if self.stats.cells_used > room:
            self._select(policy, lambda view: policy.select(view, final=False), room)
        if self._reads_prompt:
            reader = policy if policy.needs_scores else self.decode_policy
            self._score_if_due(reader, len(chunk))
        return chunk

    def _end_prompt(self) -> None:
        """Choose what of the prompt stays, and begin the output."""
        policy = self.prefill_policy
        if self.bounded and self._must_drop(policy):
            self._select(policy, lambda view: policy.select(view, final=True), self.capacity)
        self.n_prompt_cells = self.stats.cells_used
        self._since = 0
        self._look_ahead()
        if not self.decode_policy.reads_prompt:
            self._scorer.unscored = 0

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
        self._settle()
        before = self.decode_policy, self.prefill_policy, self.whole_cells, self.bounded
        self.decode_policy, self.prefill_policy = decode, prefill
        self.whole_cells, self.bounded = whole_cells, bounded or self.bounded
        self._reads_prompt = self.bounded and (prefill.needs_scores or decode.reads_prompt)
        ring = 0
        if self.bounded:
            ring = max(n_queries, ring_size(decode, prefill, self._reads_prompt))
        try:
            self.context.record_queries(ring)
        except ScopeError:
            self.decode_policy, self.prefill_policy, self.whole_cells, self.bounded = before
            self._reads_prompt = self.bounded and (
                self.prefill_policy.needs_scores or self.decode_policy.reads_prompt
            )
            raise
        self._scorer.ring = max(self._scorer.ring, ring)
        if before[2] != whole_cells:
            self._scorer.keep_by_head(whole_cells, self.ledger)
            self._marks.forget_scores()

    def begin_turn(self) -> None:
        """Let what comes next be independent of which queries are still recorded.

        Attention that was not scored yet is folded into the scores; counts of selections and
        times begin anew. The queries of the prompt before weigh nothing of the next one.
        """
        self._settle()
        self._scorer.foresight.end()
        was = self.stats
        self.stats = CacheStats(was.cells_used, was.cells_peak, was.dead_rows)

    def read(
        self, tokens: Sequence[int], size: int, make_room: Callable[[int], None] | None = None
    ) -> None:
        """Read tokens of a later prompt, `size` at a time; the policy evicts nothing meanwhile.

        Parameters
        ----------
        tokens
            Not empty.
        size
            Most tokens of a batch.
        make_room
            Called with the length of each batch before it is decoded; it evicts what may go.

        Raises
        ------
        ScopeError
            If there is no room; the tokens before the batch stay read.
        """
        reads = self.bounded and self.decode_policy.reads_prompt
        if reads:
            size = max(1, min(size, self._scorer.ring, self.capacity // 4))
        self._begin_reading(len(tokens), self.n_past + len(tokens))
        start = 0
        while start < len(tokens):
            chunk = tokens[start : start + self._chunk_size(len(tokens) - start, size)]
            start += len(chunk)
            with whole_step():
                if make_room is not None:
                    make_room(len(chunk))
                if self.stats.cells_used + len(chunk) > self.capacity:
                    raise ScopeError(f"all {self.capacity} cells are in use")
                if reads:
                    self._score_if_due(self.decode_policy, len(chunk))
                self._decode(chunk)
                self._collect(len(chunk))
            self.n_last = len(chunk)

    def begin_output(self, n_predict: int | None) -> None:
        """End a prompt: all that was read and written so far is the prompt of what follows.

        Only the queries of what was `read` last may be asked again (`scores.foresight`).
        """
        self.n_prompt, self.n_predict = self.n_past, n_predict
        self.n_prompt_cells = self.stats.cells_used
        if self.bounded and self.decode_policy.reads_prompt:
            self._settle()
        self._look_ahead()
        self._since = self._scorer.unscored = 0

    @property
    def _foresees(self) -> bool:
        """Whether new cells of the output are weighed before they are used."""
        return self.bounded and bool(self.decode_policy.ahead or self.decode_policy.unlike)

    def _begin_reading(self, n_read: int, n_end: int) -> None:
        """Note that a prompt of `n_read` tokens ends before position `n_end`."""
        self._n_end, self._n_asked = n_end, 0
        if self.bounded and self.decode_policy.ahead:
            most = self._scorer.foresight.most_queries()
            self._n_asked = min(most, n_asked(self.decode_policy, n_read))

    def _collect(self, n: int) -> None:
        """Keep the queries of the last `n` tokens of a prompt, if they are to be asked again."""
        if self._n_asked and self.n_past > self._n_end - self._n_asked:
            # behind the prompt, as far away as the cells that can be held
            pos = self._n_end + self.capacity
            n_query = min(n, self._n_asked, self._scorer.ring)
            left = self._n_end - self.n_past
            self._scorer.foresight.collect(n_query, left, self._n_asked, pos)

    def _look_ahead(self) -> None:
        """Let the queries that were collected weigh the output, if the policy wants them."""
        if self._foresees:
            if self.decode_policy.reads_prompt:
                self._settle()
            ids, _ = self._cells()
            self._scorer.foresight.begin(self._n_asked, ids, self.ledger.dead)
        else:
            self._scorer.foresight.end()
        self.stats.query_bytes = self._scorer.foresight.n_bytes

    def _chunk_size(self, n_left: int, size: int) -> int:
        """Tokens of a prompt to read at once, of `n_left`: queries to be kept fit into the ring."""
        ring = self._scorer.ring
        if not self._n_asked or min(n_left, size) <= ring:
            return size
        before = n_left - self._n_asked
        return min(size, before if before > 0 else ring)

    def make_room_by_policy(self, n: int) -> None:
        """Let the decode policy choose what goes, if `n` more cells are not there."""
        room = self.capacity - n
        if self.stats.cells_used > room:
            self._select(self.decode_policy, self.decode_policy.select, room)

    def evict(self, choose: Callable[[NDArray[np.int32], Observed], Keep]) -> int:
        """Free the cells of rows that `choose` does not keep; return how many cells that were.

        `choose` takes positions and scores, (layer, KV head, n) each, and marks the rows that
        stay, as many for each head. Of whole cells it sees one head: labels, and the maximum.
        """
        ids, shared = self._cells()
        if shared.any():
            raise ScopeError("cells that another sequence has can't be given up")
        keep = np.broadcast_to(choose(*self.ledger.ranked(self.whole_cells)), self.ledger.pos.shape)
        return self._evict(keep & (self.ledger.pos >= 0), ids)

    def observed(self, policy: Policy, n: int) -> Observed:
        """Scores as `policy` would make them of the last `n` queries; nothing is changed."""
        ids, _ = self._cells()
        scores = self._scorer.folded(policy, self.ledger, ids, n)
        return pooled(scores) if self.whole_cells else scores

    def _settle(self) -> None:
        """Fold what the decode policy has not scored yet."""
        scored = self.decode_policy.needs_scores and self._scorer.unscored
        if self.bounded and scored and self.stats.cells_used:
            self._score(self.decode_policy, self._cells()[0])

    def adopt(self, n_prompt: int) -> None:
        """Take over the cells that the sequence has already, `n_prompt` of them its prompt.

        For a prompt that another sequence has read (``llama_memory_seq_cp``). Its queries are not
        known here: a policy with ``ahead`` ranks by what the output's own queries say.
        """
        self._cells()
        labels = self.ledger.labels
        self.n_past = int(labels[-1]) + 1 if labels.size else 0
        self.n_prompt = self.n_prompt_cells = n_prompt
        self.stats.cells_used = self.stats.cells_peak = labels.size
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
        self.decoded(len(tokens))

    def decoded(self, n: int) -> None:
        """Account for `n` tokens that were decoded from position `n_past` on."""
        self.n_past += n
        self._since += n
        self._scorer.unscored += n
        self.stats.cells_used += n
        self.stats.cells_peak = max(self.stats.cells_peak, self.stats.cells_used)

    # -- attention ------------------------------------------------------------------------

    def _score_if_due(self, policy: Policy, n_next: int) -> None:
        """Score before the next queries overwrite others, where the policy sums over all."""
        if self._scorer.is_due(policy, n_next):
            self._score(policy, self._cells()[0])

    def _cells(self) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
        labels, ids, shared = kv_evict.cells(self.context.ptr, self.seq)
        self.ledger.sync(labels)
        return ids, shared

    def _score(self, policy: Policy, ids: NDArray[np.int32]) -> None:
        """Fold the attention of queries that were not scored yet into the ledger."""
        started = time.perf_counter()
        self._scorer.fold(policy, self.ledger, ids, self.capacity - self.n_prompt_cells)
        self.stats.score_seconds += time.perf_counter() - started

    # -- eviction -------------------------------------------------------------------------

    def _select(self, policy: Policy, select: Callable[[View], Keep], limit: int) -> None:
        ids, shared = self._cells()
        self._scorer.observed = None
        if policy.needs_scores:
            self._score(policy, ids)
        started = time.perf_counter()
        keep = self._ask(policy, select, limit, ids, shared)
        self._count(keep)
        self.stats.select_seconds += time.perf_counter() - started
        self._evict(keep, ids, policy.uneven)
        self._since = 0

    def _evict(self, keep: Keep, ids: NDArray[np.int32], uneven: bool = False) -> int:
        started = time.perf_counter()
        had_dead = bool(self.ledger.dead.any())
        plan = plan_eviction(keep, uneven=uneven or had_dead)
        planned = time.perf_counter()
        kv_evict.apply(self.context.ptr, self.seq, ids[plan.src], ids[plan.dst], ids[plan.free])
        if had_dead or plan.dead.any():
            kv_evict.set_dead(self.context.ptr, self.seq, ids[plan.stay], plan.dead)
        if plan.first is not None:
            self._marks.disturb(int(self.ledger.labels[plan.first]))
        self.ledger.apply(plan)
        self.stats.cells_used -= plan.free.size
        self.stats.dead_rows = float(plan.dead.sum(axis=1).mean())
        self.stats.evicted += plan.free.size
        self.stats.select_seconds += planned - started
        self.stats.move_seconds += time.perf_counter() - planned
        return int(plan.free.size)

    def _ask(
        self,
        policy: Policy,
        select: Callable[[View], Keep],
        limit: int,
        ids: NDArray[np.int32],
        shared: NDArray[np.bool_],
    ) -> Keep:
        """Ask the policy which rows stay; see `choose`."""
        if limit <= shared.sum():
            raise ScopeError(f"all {self.capacity} cells are shared: give a larger --budget")
        pos, scores = self.ledger.ranked(self.whole_cells)
        view = View(
            pos,
            scores,
            self.n_prompt,
            self.n_past,
            self.n_predict,
            limit,
            self._rows(ids, values=False) if policy.needs_keys else None,
            self._rows(ids, values=True) if policy.needs_values else None,
        )
        by_layer = policy.uneven or bool(self.ledger.dead.any())
        keep = choose(select, view, shared, by_layer)
        return np.broadcast_to(keep, self.ledger.pos.shape)

    def _rows(self, ids: NDArray[np.int32], values: bool) -> NDArray[np.float32]:
        return kv_evict.rows(self.context.ptr, self.seq, ids, values=values)

    def _count(self, keep: Keep) -> None:
        """Update the attention loss."""
        stats = self.stats
        stats.selections += 1
        lost = self._scorer.share_lost(keep)
        if lost is not None:
            stats.attention_loss += (lost - stats.attention_loss) / stats.selections

    def positions(self) -> NDArray[np.int32]:
        """Return the true positions of the rows of each head: int32 (layer, KV head, n).

        -1 where a row is dead: the layer keeps fewer than another one.
        """
        self._cells()
        return self.ledger.pos

    # -- going back ---------------------------------------------------------------------

    def mark(self) -> Mark:
        """Make a mark here; of older ones all but the latest lose their scores."""
        self._cells()
        scores = self.ledger.scores.copy()
        mark = Mark(self.n_past, self._counters(), replace(self.stats), scores)
        mark.asked = self._scorer.foresight.asked
        self._marks.add(mark)
        return mark

    def return_to(self, mark: Mark, again: Sequence[int] = ()) -> bool:
        """Forget all after a mark; later marks are worthless then.

        Parameters
        ----------
        mark
            A mark of this cache.
        again
            The last tokens before the mark, which were decoded as one batch: decode them again,
            for their logits.

        Returns
        -------
        bool
            False if rows from before the mark were evicted or moved since, or if what it had is
            no longer known. Nothing is right then but to `clear` and to read all tokens anew.
        """
        begins_output = mark.n_past == mark.counters[1]
        foreseen = mark.asked is not None or not self._foresees
        if not mark.intact or mark.scores is None or (begins_output and not foreseen):
            return False
        n_past = mark.n_past - len(again)
        with whole_step():
            if not llama_cpp.llama_memory_seq_rm(self.context.memory, self.seq, n_past, -1):
                return False
            self._cells()
            self.n_past = n_past
            if again:
                self.context.decode(again, n_past, self.seq)
                self._cells()
            self.ledger.scores = mark.scores.copy()
            self._set_counters(mark.counters)
            ahead = mark.asked
            self._scorer.foresight.asked = ahead and ahead.before_output()
            peak = self.stats.cells_peak
            self.stats = replace(mark.stats, cells_peak=peak)
            self._marks.forget_after(mark.n_past)
        return self._has_window()

    def forget_after(self, n_past: int) -> bool:
        """Forget the tokens from position `n_past` on, whatever was evicted before it meanwhile.

        Returns
        -------
        bool
            False, and nothing is changed, if rows of these tokens were moved to older cells.
        """
        self._cells()
        old = self.ledger.labels < n_past
        if not (self.ledger.pos[:, :, old] < n_past).all():
            return False
        with whole_step():
            if not llama_cpp.llama_memory_seq_rm(self.context.memory, self.seq, n_past, -1):
                return False
            self._cells()
            self.n_past = n_past
            self.stats.cells_used = self.ledger.labels.size if old.size else n_past
            self._since = self._scorer.unscored = 0
            self._marks.forget_after(n_past)
        return True

    def _has_window(self) -> bool:
        """Whether the queries are recorded that a policy that ranks all rows may ask for soon."""
        if not self.bounded or not self.decode_policy.ranks_prompt:
            return True
        window = min(fixed_window(self.decode_policy), self.n_past)
        return self._scorer.n_recorded() >= window

    def clear(self) -> None:
        """Forget all tokens."""
        with whole_step():
            llama_cpp.llama_memory_seq_rm(self.context.memory, self.seq, -1, -1)
            if self.bounded:
                kv_evict.forget(self.context.ptr, self.seq)
            self._cells()
            self._set_counters((0,) * len(self._counters()))
            self._scorer.foresight.end()
            self.stats = CacheStats()
            self._marks.forget_after(-1)

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
        ledger = self.ledger
        last = ledger.labels >= n_past - 1
        intact = (ledger.pos[:, :, last] == ledger.labels[last]).all()
        if n_tokens < 0 or int(last.sum()) != n_tokens + 1 or not intact:
            raise ScopeError(f"{n_tokens} tokens can't be taken back: some were evicted")
        llama_cpp.llama_memory_seq_rm(self.context.memory, self.seq, n_past, -1)
        self.n_past = n_past
        self.stats.cells_used -= n_tokens
        self._since = max(0, self._since - n_tokens)
        self._scorer.unscored = max(0, self._scorer.unscored - n_tokens)
        self._cells()

    def rollback_unselected(self, n_tokens: int) -> None:
        """Forget the last `n_tokens` tokens if no selection was made since.

        Raises
        ------
        ScopeError
            If one was, or as `rollback` does.
        """
        if self.bounded and n_tokens > self._since:
            raise ScopeError(f"{n_tokens} tokens can't be taken back: a selection weighed them")
        self.rollback(n_tokens)

    # -- state ----------------------------------------------------------------------------

    def state(self, places: bool = True) -> CacheState:
        """Return what a cache of the same model needs to go on; it stays as it is here.

        With `places` it goes on bit by bit, in a context of the same size. Without, cells may come
        to lie elsewhere, and no query is known any more: their attention is scored now.
        """
        if not places:
            self._settle()
        self._cells()
        counters = self._counters()
        return CacheState(
            native=read_cells(self.context, self.seq, places and self.bounded),
            places=places and self.bounded,
            counters=counters if places else (*counters[:-1], 0),
            stats=replace(self.stats),
            ledger=replace(self.ledger),
            marks=tuple((mark, replace(mark)) for mark in self._marks.all),
            asked=self._scorer.foresight.asked,
        )

    def take(self, state: CacheState) -> None:
        """Take over a `state`, in place of all that is here but capacity and policies.

        Raises
        ------
        ScopeError
            If its cells are none of this model, or have no room here: the cache is as it was.
            Or if they are not those of its ledger: nothing is right then but to `clear`.
        """
        with whole_step():
            write_cells(self.context, self.seq, state.native, state.places)
            if self.bounded and not state.places:
                kv_evict.forget(self.context.ptr, self.seq)
            labels, _, _ = kv_evict.cells(self.context.ptr, self.seq)
            if not np.array_equal(labels, state.ledger.labels):
                raise ScopeError("the cells are not those that the rest of the state tells of")
            self.ledger = replace(state.ledger)
            if not state.places and self.ledger.dead.any():
                _, ids, _ = kv_evict.cells(self.context.ptr, self.seq)
                kv_evict.set_dead(self.context.ptr, self.seq, ids, self.ledger.dead)
            self._set_counters(state.counters)
            self.stats = replace(state.stats)
            for mark, was in state.marks:
                mark.intact, mark.scores = was.intact, was.scores
                mark.asked = was.asked
            self._marks.keep([mark for mark, _ in state.marks])
            self._scorer.foresight.asked = state.asked

    def _counters(self) -> tuple[int, ...]:
        return self.n_past, self.n_prompt, self.n_prompt_cells, self._since, self._scorer.unscored

    def _set_counters(self, counters: Sequence[int]) -> None:
        self.n_past, self.n_prompt, self.n_prompt_cells, self._since, self._scorer.unscored = (
            counters
        )
