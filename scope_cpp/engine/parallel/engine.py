"""The engine: rows come and go, one `llama_decode` at a time."""

from __future__ import annotations

import threading
import warnings
from collections import deque
from collections.abc import Hashable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import replace
from itertools import accumulate, compress

import numpy as np
from numpy.typing import NDArray

from scope_cpp.engine import attention, capability
from scope_cpp.engine.arguments import checked
from scope_cpp.engine.cache.bounded import BoundedCache
from scope_cpp.engine.context import Row as Entry
from scope_cpp.engine.footprint import Footprint, Use, measure
from scope_cpp.engine.generate import Warn
from scope_cpp.engine.interrupts import whole_step
from scope_cpp.engine.model import Model
from scope_cpp.engine.parallel.demand import Demand, Room, TalkDemand, assess, usual_ring
from scope_cpp.engine.parallel.request import Event, Request
from scope_cpp.engine.parallel.row import Row
from scope_cpp.engine.parallel.talk_cells import TalkCells
from scope_cpp.engine.parallel.talk_row import TalkRow
from scope_cpp.engine.settings import Settings
from scope_cpp.engine.threads import give_way
from scope_cpp.errors import NoRoom, ScopeError, UsageError
from scope_cpp.native.lifetime import Closable

# Most tokens of a prompt in a batch with rows that write: they wait for all of it
PROMPT_PART = 128
# Seconds that all rows wait for a token that another thread chooses: nearly all take far less
PATIENCE = 0.03

# What a row feeds to a batch
Fed = tuple[Row, list[Entry]]


class ParallelEngine(Closable):
    """Many bounded generations in one context; a context manager.

    Calls from several threads come after one another.

    Rows are admitted first come, first served, as soon as the most cells that they may ever need
    are free: what all running rows may still take is kept for them. One prompt is read at a time,
    in parts, in the same batches as the next tokens of the rows that write. A prompt that begins
    with the tokens of one that lies in the cache is not read again so far: it shares these cells,
    or has copies where the policy may give up cells of the prompt, or where windows or recurrent
    states lie beside the cells; see `Demand.n_reusable`.

    A row writes the tokens that it writes alone, but for the rounding of llama.cpp's arithmetic,
    which depends on how many tokens are in a batch and on which cells they lie in: logits differ
    in their last digits, and where two tokens are as likely as that, the other one may be taken.
    ``flash_attn="auto"`` is the fused attention here, which passes over the cells of other rows;
    for a row alone on a CPU it is the plain one, see `attention`.

    Parameters
    ----------
    model
        Closing it closes the engine.
    n_parallel
        Most rows that run at once.
    n_cells
        Cells of the cache, all rows together: never exceeded.
    settings
        The context's dials, and what a request without settings of its own gets.
    prefix_cells
        Most cells in which finished rows may rest, for later prompts that begin alike: their
        prompts, and their outputs too if nothing was evicted. They are given up, least recently
        used first, as soon as a row needs them. With a model that has windows or recurrent states
        they are copied into main memory instead, which takes as much as so many cells at most.
    come_back
        Whether later prompts are likely to begin with all that a row was, as in conversations: what
        has to be copied is then copied of each row, else only where prompts have a beginning in
        common.
    warn
        Called once with each line that the user should know.

    Attributes
    ----------
    n_parallel, n_cells, settings
        As given.
    context
        llama.cpp's.
    n_generated
        Tokens written so far.

    Raises
    ------
    UsageError
        If there are no rows, no cells, or more rows than llama.cpp allows.
    ScopeError
        If there is no memory for the context.
    """

    @checked()
    def __init__(
        self,
        model: Model,
        *,
        n_parallel: int,
        n_cells: int,
        settings: Settings | None = None,
        prefix_cells: int = 0,
        come_back: bool = True,
        warn: Warn = warnings.warn,
    ) -> None:
        self._turn = threading.RLock()
        self._choosers = ThreadPoolExecutor(max(1, n_parallel), "scope-choice", give_way)
        self._rows: dict[Hashable, Row] = {}
        self._waiting: deque[Row] = deque()
        self._running: list[Row] = []
        super().__init__("the engine", "make another one", model)
        self.settings = settings or Settings()
        self.model, self._warn = model, warn
        self._warned: set[str] = set()
        self.n_parallel, self.n_cells = n_parallel, n_cells
        self.n_generated = 0
        self._n_evicted = 0
        self._room = Room(n_cells, n_parallel, self.settings)
        self._said: list[Event] = []
        self._late: set[Future[int]] = set()  # choices that took longer than a step
        bounds = self.settings.policies()[0].name != "full"
        resolved = attention.resolve(self.settings, model, bounded=bounds and n_parallel == 1)
        self._kinds = resolved.type_k, resolved.type_v, resolved.flash_attn
        self._refusal: str | None = None
        self._use = Use(
            *self.settings.policies(),
            usual_ring(self.settings, n_cells),
            self.settings.granularity == "cell",
            n_parallel,
        )
        self._cells = TalkCells(
            model,
            resolved.context_params(n_cells),
            n_parallel=n_parallel,
            n_cells=n_cells,
            prefix_cells=prefix_cells,
            come_back=come_back,
            use=self._use if bounds else None,
        )
        self.context = self._cells.context
        self.adopt(self.context)
        self._batch = max(n_parallel, min(resolved.n_ubatch, self.context.n_batch))

    # -- requests -------------------------------------------------------------------------

    @checked()
    def submit(self, request: Request, key: Hashable) -> None:
        """Let a row wait for its turn; rows are admitted in this order.

        Raises
        ------
        UsageError
            If the request is wrong, needs more cells than there are, or the key is in use.
        ScopeError
            If the model's cache can't be bounded although a policy or a budget asks for it.
        """
        with self._turn:
            self.check_open()
            if key in self._rows:
                raise UsageError(f"there is a row {key!r} already: give each a key of its own")
            demand = self._assess(request)
            if isinstance(demand, TalkDemand):
                row: Row = TalkRow(key, request, demand, self.model, self._warn_once)
            else:
                row = Row(key, request, demand, self.model, self._warn_once)
            for line in demand.sizes.warnings:
                self._warn_once(line)
            self._rows[key] = row
            self._waiting.append(row)

    @checked()
    def worst_case(self, request: Request) -> int:
        """Return the most cells that a row may need: prompt and pools. Raises as `submit`."""
        return self._assess(request).n_cells

    def _assess(self, request: Request) -> Demand:
        """As `assess`; with the full cache where the model's can't be bounded."""
        talks = self._cells.can_talk
        demand = assess(request, self.model, self._room, talks)
        if demand.sizes.bounded:
            if self._refusal is None:
                self._refusal = capability.refusal(self.model.path, *self._kinds)
            given = request.settings or self.settings
            settings = capability.fall_back(given, self.model, self._refusal, self._warn_once)
            if settings is not given:
                demand = assess(replace(request, settings=settings), self.model, self._room, talks)
        return demand

    @checked()
    def cancel(self, key: Hashable) -> None:
        """Forget a row, waiting or running; its cells are free at once. Unknown: nothing."""
        with self._turn:
            row = self._rows.get(key)
            if row in self._running:
                self._remove(row, keep=True)
            elif row is not None:
                self._waiting.remove(row)
                self._forget(row)
            self._said = [event for event in self._said if event.key != key]

    def abort(self) -> None:
        """Let the step that runs and all later ones fail their rows; any thread may call it."""
        self.context.abort()

    def _warn_once(self, line: str) -> None:
        if line not in self._warned:
            self._warned.add(line)
            self._warn(line)

    def _forget(self, row: Row) -> None:
        del self._rows[row.key]
        row.close()

    # -- steps ----------------------------------------------------------------------------

    def step(self) -> list[Event]:
        """Run at most one `llama_decode`; return what the rows say, none if there is no row.

        A row whose next token takes long to choose, as its schema has many ways to go on, leaves
        out the steps of the others meanwhile.

        A Ctrl-C in the middle is raised at the end; the next step returns what was said then.
        """
        with self._turn:
            self.check_open()
            with whole_step():
                self._admit()
                if self._running:
                    self._advance()
                    self._hear_choices()
            said, self._said = self._said, []
        return said

    def _admit(self) -> None:
        """Let rows enter that wait, the first first, as long as no other one reads its prompt."""
        if self.context.tainted:
            self._cells.clean(idle=not self._running)
        while self._waiting and len(self._running) < self.n_parallel:
            row = self._waiting[0]
            if any(other.reading for other in self._running):
                return
            seqs = [other.cache.seq for other in self._running]
            taken = row.enter(self._cells, seqs, self._promised())
            if taken is None:
                return
            self._waiting.popleft()
            try:
                self._cells.record(taken[0], len(seqs))
                row.begin(self.context, *taken)
            except ScopeError as err:
                self._forget(row)
                row.leave(self._cells, taken[0], keep=isinstance(err, NoRoom))
                self._said.append(Event(row.key, None, err))
            else:
                row.pauses = self._cells.pauses(
                    row.demand, (other.demand for other in self._waiting)
                )
                self._running.append(row)

    def _promised(self) -> int:
        """Cells that running rows may still take; with those they have where none are counted."""
        if self._cells.countable:
            return sum(row.growth for row in self._running)
        return sum(row.demand.n_cells for row in self._running)

    def _advance(self) -> None:
        """Decode the next token of each row that writes, and a part of the prompt that is read."""
        ready = [row for row in self._running if row.choice is None]
        n_writing = sum(not row.reading for row in ready)
        limit = min(self._batch - n_writing, PROMPT_PART) if n_writing else self._batch
        batch: list[Entry] = []
        fed: list[Fed] = []
        for row in ready:
            try:
                entries = row.feed(limit)
            except ScopeError as err:
                self._fail(row, err)
            else:
                if row.spoiled:
                    self._cells.forget(row.cache.seq)
                fed.append((row, entries))
                batch += entries
        if any(row.suspect for row, _ in fed):
            self._advance_alone(fed)
            return
        try:
            if batch:
                self.context.decode_rows(batch)
        except ScopeError as err:
            for row, _ in fed:
                self._fail(row, err)
            return
        lasts = [end - 1 for end in accumulate(len(entries) for _, entries in fed)]
        spoiled = self._find_spoiled(fed, lasts) if len(fed) > 1 else []
        for (row, entries), last in zip(fed, lasts, strict=True):
            if (row, entries) in spoiled:
                continue
            try:
                self._take_note(row, len(entries), last)
            except ScopeError as err:
                self._fail(row, err)
        self._find_guilty(spoiled)

    def _find_spoiled(self, fed: list[Fed], lasts: list[int]) -> list[Fed]:
        """Find the rows of a batch of which something may be NaN, and the row that gave it.

        A row whose numbers are not finite may spoil those beside it: attention gives cells of other
        rows a weight of 0. All that a row computes is in its logits; where none were wanted, it is
        not known.
        """
        finite = [
            self.context.has_finite_logits(last) if entries[-1].logits else None
            for (_, entries), last in zip(fed, lasts, strict=True)
        ]
        if False not in finite:
            return []
        return [item for item, is_finite in zip(fed, finite, strict=True) if not is_finite]

    def _find_guilty(self, spoiled: list[Fed]) -> None:
        """Decode what each of these rows fed on its own, so that NaN ends the right row only.

        It is taken back before. Recurrent states can't go back, and windows not always: such a
        row starts over.
        """
        able = [self.context.remove(row.cache.seq, entries[0].pos) for row, entries in spoiled]
        for (row, entries), is_able in zip(spoiled[::-1], able[::-1], strict=True):
            if not is_able:
                self._start_over(row, len(entries))
        self._advance_alone(list(compress(spoiled, able)))

    def _start_over(self, row: Row, n: int) -> None:
        """Let a row that may be spoiled since its last `n` tokens wait again, before all others."""
        self._running.remove(row)
        self._n_evicted += row.cache.stats.evicted
        self._cells.clear(row.cache.seq)
        row.start_over(n)
        self._waiting.appendleft(row)

    def _advance_alone(self, fed: list[Fed]) -> None:
        """Decode what each row fed on its own, so that NaN can only be that row's.

        Rows that read come first, as they may hold such cells already.
        """
        for row, entries in sorted(fed, key=lambda item: not item[0].reading):
            if self.context.tainted:
                self._cells.clean(idle=False)
            try:
                self.context.decode_rows([*entries[:-1], entries[-1]._replace(logits=True)])
                self.context.logits()
                self._take_note(row, len(entries), len(entries) - 1)
            except ScopeError as err:
                self._fail(row, err)

    def _take_note(self, row: Row, n: int, last: int) -> None:
        """Account for `n` tokens of a row, the last of them the batch's `last`-th."""
        was_reading, read = row.reading, row.decoded(n)
        if was_reading and row.cache.n_past in row.pauses:
            self._cells.keep(row.cache.seq, row.demand.tokens[: row.cache.n_past])
        if not read:
            return
        if was_reading:
            self._cells.note(row.cache.seq, row.whole, own=not row.demand.keeps_prompt)
        if row.says_again():
            return
        row.choose(last, self._choosers)
        if row.choice is None:
            self._hear(row)

    def _hear(self, row: Row) -> None:
        """Pass on what a row says."""
        event = row.say()
        assert event.response is not None
        self.n_generated += 1
        self._said.append(event)
        if event.response.finish_reason is not None:
            self._remove(row, keep=True)

    def _hear_choices(self) -> None:
        """Pass on what was chosen in other threads; wait a moment for what has just begun.

        So rows whose tokens are chosen quickly take part in every step.
        """
        choices = {row.choice: row for row in self._running if row.choice is not None}
        fresh = choices.keys() - self._late
        if fresh:
            wait(fresh, PATIENCE)
        elif len(choices) == len(self._running):
            wait(choices, PATIENCE, FIRST_COMPLETED)
        self._late = {choice for choice in choices if not choice.done()}
        for row in (row for choice, row in choices.items() if choice not in self._late):
            try:
                self._hear(row)
            except ScopeError as err:
                self._fail(row, err)

    def _fail(self, row: Row, err: ScopeError) -> None:
        self._said.append(Event(row.key, None, err))
        self._remove(row, keep=isinstance(err, NoRoom))

    def _remove(self, row: Row, keep: bool) -> None:
        """Let a running row go; with `keep` others may use what it has."""
        self._running.remove(row)
        self._n_evicted += row.cache.stats.evicted
        self._forget(row)
        row.leave(self._cells, row.cache.seq, keep)

    # -- what there is --------------------------------------------------------------------

    @property
    def busy(self) -> bool:
        """Whether a row runs or waits, or something is said that no step has returned."""
        return bool(self._running or self._waiting or self._said)

    @property
    def n_running(self) -> int:
        """Rows that run."""
        return len(self._running)

    @property
    def n_waiting(self) -> int:
        """Rows that wait."""
        return len(self._waiting)

    @property
    def n_evicted(self) -> int:
        """Cells evicted so far, in all rows."""
        return self._n_evicted + sum(row.cache.stats.evicted for row in self._running)

    def cells_used(self) -> int:
        """Cells in use, resting prompts included, by llama.cpp's count."""
        if self._cells.countable:
            return self._cells.used()
        return sum(row.cache.stats.cells_used for row in self._running)

    def memory(self) -> Footprint:
        """What the context takes, with what is kept of prompts, running and ended."""
        found = measure(self.context, self._use if self.context.n_recorded else None, asked=False)
        asked = sum(row.cache.stats.query_bytes for row in self._running)
        copies = self._cells.n_copied_bytes()
        return replace(found, queries=found.queries + asked, copies=copies)

    @checked()
    def positions(self, key: Hashable) -> NDArray[np.int32] | None:
        """True positions of a running row, see `BoundedCache.positions`; ``None`` if it is none."""
        row = self._rows.get(key)
        return row.cache.positions() if row in self._running else None

    @property
    def caches(self) -> list[BoundedCache]:
        """Caches of the running rows, in the order of their admission."""
        return [row.cache for row in self._running]

    def _release(self) -> None:
        with self._turn:  # the step that runs in another thread ends with an error
            for row in tuple(self._rows.values()):
                self._forget(row)
            self._running.clear()
            self._waiting.clear()
            self._choosers.shutdown(wait=False)
