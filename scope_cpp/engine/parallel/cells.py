"""The cells of one context: which sequences are free, what rows that begin alike have of another.

They share cells, or have copies of them. Where windows or recurrent states lie beside the cells,
that is copies of whole sequences (`checkpoints`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import islice

import numpy as np

from scope_cpp.engine.context import Context, ContextParams
from scope_cpp.engine.footprint import Use
from scope_cpp.engine.forecast import Forecast, sequences
from scope_cpp.engine.model import Model
from scope_cpp.engine.parallel.checkpoints import SEEN, Checkpoint, Checkpoints
from scope_cpp.engine.parallel.demand import Demand, usual_ring
from scope_cpp.engine.parallel.prefixes import LEAST, Prefixes
from scope_cpp.engine.settings import Settings
from scope_cpp.errors import ScopeError, UsageError, WrongValue
from scope_cpp.native import kv_evict
from scope_cpp.native.library import llama_cpp

# Prompts that rest at once
MOST_RESTING = 8


def most_resting(model: Model) -> int:
    """Prompts of a model that rest at once: each takes windows and states of its own."""
    return 0 if model.has_fixed_state else MOST_RESTING


def taken(forecast: Forecast, settings: Settings, n_parallel: int) -> Callable[[int], int]:
    """Return what tells the bytes that so many cells for `n_parallel` rows take.

    Raises
    ------
    UsageError
        If no context has so many rows.
    """
    _check_rows(n_parallel, _most_rows(forecast.model, MOST_RESTING))

    def of(n_cells: int) -> int:
        found = forecast.taken(
            settings,
            n_recorded=usual_ring(settings, n_cells),
            n_parallel=n_parallel,
            n_resting=most_resting(forecast.model),
        )
        return found(n_cells)

    return of


def _most_rows(model: Model, n_resting: int) -> int:
    """Rows that llama.cpp allows beside prompts that rest."""
    return int(llama_cpp.llama_max_parallel_sequences()) - sequences(model, 0, n_resting)


def _check_rows(n_parallel: int, most: int) -> None:
    if not 1 <= n_parallel <= most:
        raise WrongValue("n_parallel", f"is {n_parallel}: give 1 to {most} rows at once")


class Cells:
    """A context of `n_cells` for `n_parallel` rows; prompts may rest in `prefix_cells` of them.

    Parameters
    ----------
    model, params, n_parallel, n_cells
    prefix_cells
        Where prompts can't rest in cells, copies of them take as much memory, beside the cells.
    come_back
        Whether later prompts are likely to begin with all that a row was.
    use
        What it needs is recorded and reserved from the start; nothing if that is ``None``.

    Attributes
    ----------
    context
    countable
        Whether llama.cpp's cells can be looked at.
    shares
        Whether rows that begin alike share cells, and prompts rest in them.
    """

    def __init__(
        self,
        model: Model,
        params: ContextParams,
        *,
        n_parallel: int,
        n_cells: int,
        prefix_cells: int,
        come_back: bool,
        use: Use | None,
    ) -> None:
        n_resting = most_resting(model) if prefix_cells >= LEAST else 0
        if n_cells < 1:
            raise UsageError(f"{n_cells} cells in all: give at least 1")
        _check_rows(n_parallel, min(_most_rows(model, n_resting), params.n_batch, n_cells))
        self._n_cells, self._prefix_cells, self._n_resting = n_cells, prefix_cells, n_resting
        # what rests needs no queries any more
        n_seqs = sequences(model, n_parallel, n_resting)
        self.context = Context(model, replace(params, n_seq_max=n_seqs, n_slots=n_parallel))
        self.countable = kv_evict.n_cells(self.context.ptr) > 0
        self.shares = self.context.cuts_anywhere
        if self.countable:
            with suppress(kv_evict.NativeError):  # a bounded row is refused by name
                if use is not None:
                    self.context.record_queries(use.n_recorded)
                    kv_evict.reserve(self.context.ptr, use.needs(self.context))
        self._free = list(range(n_seqs))[::-1]
        self._prefixes = Prefixes()
        self._come_back = come_back
        self._checkpoints: Checkpoints | None = None
        if self.context.has_beside and prefix_cells >= LEAST:
            per_cell = sum(kv_evict.memory(self.context.ptr)["cells"]) // self.context.n_cells
            self._checkpoints = Checkpoints(prefix_cells * per_cell)
        self._own: set[int] = set()  # of rows that may give up cells of their prompts

    def take(self, demand: Demand, running: Sequence[int], promised: int) -> tuple[int, int] | None:
        """Find a sequence and cells for a row; prompts that rest give way.

        Parameters
        ----------
        demand
        running
            Sequences of the rows that run.
        promised
            Cells that these may still take; where cells can't be counted, those they have as well.

        Returns
        -------
        seq, n_shared
            The sequence, and how many of the prompt's tokens lie in it already; ``None`` if the
            row must wait.
        """
        if demand.ring > self.context.n_recorded:
            if running:
                return None  # more is recorded from now on, which can begin without a cell only
            self.forget_resting()
        if not self.shares:
            return self._take_alone(demand, promised)
        source, n = self._prefixes.find(demand.tokens, demand.n_reusable)
        needed = promised + demand.n_cells
        n_free = self._n_cells - self._n_held(running, source, n)
        copies = False
        if n and (not demand.keeps_prompt or source in self._own):
            copies = needed <= n_free
            if not copies and not self._may_move(source, n):
                source, n, n_free = -1, 0, self._n_cells - self._n_held(running, -1, 0)
        if not copies:
            needed -= n
        if needed > n_free:
            return None
        seq = self._free.pop()
        if n:
            self._prefixes.touch(source)
        if n and not copies:
            self.context.share(source, seq, n)
            if not demand.keeps_prompt:
                self.clear(source)
        self._give_way(needed, source if copies else -1, n)
        if copies:
            self.context.copy(source, seq, n, self._free[-1])
        return seq, n

    def _take_alone(self, demand: Demand, promised: int) -> tuple[int, int] | None:
        """As `take`, where no cell is ever shared; what a checkpoint has is copied."""
        used = self.used() if self.countable else 0
        if used + promised + demand.n_cells > self._n_cells:
            return None
        seq = self._free.pop()
        if self._checkpoints is None:
            return seq, 0
        found = self._checkpoints.find(demand.tokens, demand.n_reusable)
        if found is None:
            return seq, 0
        try:
            self.context.write_state(seq, found.state)
        except ScopeError:
            # it would fail the next row, too: this one reads its prompt
            self._checkpoints.drop(found)
            self.context.remove(seq)
            return seq, 0
        self._checkpoints.use(found)
        return seq, found.tokens.size

    def pauses(self, demand: Demand, others: Iterable[Demand]) -> set[int]:
        """Return after which tokens of a row's prompt it should be copied (`keep`).

        Parameters
        ----------
        demand
            The row's, which is about to read.
        others
            Those of rows that wait.
        """
        checkpoints, n = self._checkpoints, demand.n_reusable
        if checkpoints is None or n < LEAST:
            return set()
        # a row that reads its prompt whole can be copied anywhere before its end
        waiting = (other.tokens[: other.n_reusable] for other in islice(others, SEEN))
        known = checkpoints.n_known(demand.tokens[:n])
        branch = checkpoints.branch(demand.tokens[:-1], waiting, known)
        checkpoints.see(demand.tokens[:n])
        known = max(known, branch if branch <= n else 0)
        own = n if self._come_back and n - known >= LEAST else 0
        return {branch, own} - {0}

    def keep(self, seq: int, tokens: Sequence[int]) -> None:
        """Copy a sequence, which has just these tokens, for prompts that begin with them."""
        checkpoints = self._checkpoints
        if checkpoints is None or self.context.tainted:
            return
        known = np.array(tokens, np.int32)
        # no row ends because there is no memory for what others may gain by
        with suppress(ScopeError, MemoryError):
            if checkpoints.give_way(known.nbytes + self.context.state_bytes(seq)):
                checkpoints.add(Checkpoint(known, self.context.read_state(seq)))

    def _may_move(self, source: int, n: int) -> bool:
        """Whether the first cells of a sequence that rests are its alone."""
        resting = source in self._prefixes.resting
        return resting and not kv_evict.cells(self.context.ptr, source)[2][:n].any()

    def _give_way(self, needed: int, source: int, n: int) -> None:
        """Free cells of prompts that rest until so many are there; `source` keeps its first `n`."""
        resting = self._prefixes.resting
        while resting and self.used() + needed > self._n_cells:
            if resting[0] == source:
                self._shorten(source, n)
                return
            self.clear(resting[0])

    def _shorten(self, seq: int, n: int) -> None:
        """Leave only the first `n` cells of a sequence that rests."""
        self.context.remove(seq, n)
        self._prefixes.shorten(seq, n)

    def used(self) -> int:
        """Cells in use, by llama.cpp's count."""
        return kv_evict.n_used(self.context.ptr)

    def note(self, seq: int, tokens: Sequence[int], own: bool = False) -> None:
        """Note that a sequence begins with these tokens: others may use them from now on.

        They must not share its cells where it may give them up: these are its `own`.
        """
        if self.shares and len(tokens) >= LEAST:
            self._prefixes.add(seq, tokens)
            if own:
                self._own.add(seq)

    def forget(self, seq: int) -> None:
        """Note that a sequence does not begin with its tokens any more."""
        self._prefixes.remove(seq)

    def finish(self, seq: int, tokens: Sequence[int]) -> None:
        """Take the cells of a row that has ended; those of its first `tokens` may rest."""
        if self._come_back and self._is_all(seq, tokens):
            self.keep(seq, tokens)
        tokens = tokens[: self._prefix_cells]
        if not self._n_resting or not self.shares or len(tokens) < LEAST:
            self.clear(seq)
            return
        self.note(seq, tokens)
        self._own.discard(seq)
        self.context.remove(seq, len(tokens))
        kv_evict.release(self.context.ptr, seq)
        for useless in self._prefixes.rest(seq):
            self.clear(useless)
        resting = self._prefixes.resting
        while len(resting) > self._n_resting or self.n_resting_cells() > self._prefix_cells:
            self.clear(resting[0])

    def _is_all(self, seq: int, tokens: Sequence[int]) -> bool:
        """Whether these are all tokens of a sequence, and no checkpoint has nearly all of them."""
        checkpoints = self._checkpoints
        if checkpoints is None or len(tokens) - checkpoints.n_known(tokens) < LEAST:
            return False
        labels = kv_evict.cells(self.context.ptr, seq)[0]
        return np.array_equal(labels, np.arange(len(tokens)))

    def clear(self, seq: int) -> None:
        """Free a sequence and its cells, but for those that others have too."""
        self.context.remove(seq)
        kv_evict.release(self.context.ptr, seq)
        self._prefixes.remove(seq)
        self._own.discard(seq)
        self._free.append(seq)

    def forget_resting(self) -> None:
        """Free all prompts that rest."""
        while self._prefixes.resting:
            self.clear(self._prefixes.resting[0])

    def clean(self, idle: bool) -> None:
        """Let no NaN that nobody has any more come through to rows; see `Context.zero_free`.

        Where a cache can't be looked at, that is done once no row runs (`idle`).
        """
        try:
            self.context.zero_free()
        except kv_evict.NativeError:
            if idle:
                self.context.wipe()

    def n_copied_bytes(self) -> int:
        """Bytes of main memory that copies for later prompts take."""
        return self._checkpoints.n_bytes if self._checkpoints is not None else 0

    def n_resting_cells(self) -> int:
        """Cells of the prompts that rest, rows that share them or not."""
        return self._n_held(self._prefixes.resting, -1, 0)

    def _n_held(self, seqs: Sequence[int], source: int, n_shared: int) -> int:
        """Cells of some sequences, and the first `n_shared` of one more."""
        ptr = self.context.ptr
        held = np.zeros(kv_evict.n_cells(ptr), np.bool_)
        for seq in seqs:
            held[kv_evict.cells(ptr, seq)[1]] = True
        if n_shared:
            held[kv_evict.cells(ptr, source)[1][:n_shared]] = True
        return int(held.sum())
