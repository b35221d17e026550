"""A row that is a turn of a conversation."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import replace

import numpy as np

from scope_cpp.engine.cache.bounded import Steps
from scope_cpp.engine.context import Context
from scope_cpp.engine.generate import Warn, write
from scope_cpp.engine.held_turns import HeldTurns, Place
from scope_cpp.engine.model import Model
from scope_cpp.engine.parallel.demand import TalkDemand
from scope_cpp.engine.parallel.request import Event, Request
from scope_cpp.engine.parallel.row import Row
from scope_cpp.engine.parallel.talk_cells import TalkCells, open_cache
from scope_cpp.engine.turns import Turn
from scope_cpp.native import kv_evict


class TalkRow(Row):
    """A row that is a turn of a conversation; see `Row`.

    Attributes
    ----------
    talk
        The conversation.
    """

    demand: TalkDemand

    def __init__(
        self, key: Hashable, request: Request, demand: TalkDemand, model: Model, warn: Warn
    ) -> None:
        super().__init__(key, request, demand, model, warn)
        self.talk = HeldTurns(model, demand.settings, demand.n_predict)
        self._fresh: list[Turn] = []  # of all, if nothing is held
        self._found: tuple[int, Place, list[Turn]] | None = None
        self._found_at = -1
        self._turns: list[Turn] = []  # that are read
        self._steps: Steps | None = None
        self._said = ""

    def enter(
        self, cells: TalkCells, running: Sequence[int], promised: int
    ) -> tuple[int, int] | None:
        """Find the conversation or begin it; see `Row.enter`."""
        demand, found = self.demand, self._find(cells)
        if found is not None and demand.ring <= cells.context.n_recorded:
            seq, place, turns = found
            labels = kv_evict.cells(cells.context.ptr, seq)[0]
            demand = _with(demand, turns, n_kept=int((labels < place.n_past).sum()))
            taken = cells.take_up(seq, place, demand, running, promised, self.request.branches)
            if taken is None:
                return None
            self.talk, self._turns, self.demand = taken[1], turns, demand
            return taken[0], 0
        self._fresh = self._fresh or self.talk.plan(demand.chat)
        demand = replace(_with(demand, self._fresh), tokens=tuple(self._fresh[0].tokens))
        begun = cells.take(demand, running, promised)
        if begun is not None:
            self._turns, self.demand = self._fresh, demand
        return begun

    def _find(self, cells: TalkCells) -> tuple[int, Place, list[Turn]] | None:
        """Find the conversation, and what is to be read of it; again once others rest."""
        if self._found_at != cells.n_changes:
            self._found_at, self._found = cells.n_changes, None
            found = cells.find(self.demand.chat.text)
            if found is not None:
                seq, place = found
                talk = cells.talks[seq]
                self._found = seq, place, talk.plan(self.demand.chat, place.at, talk.kept(place))
        return self._found

    def begin(self, context: Context, seq: int, n_shared: int) -> None:
        """Run as a sequence; see `Row.begin`.

        Raises
        ------
        ScopeError
            If the cache can't be bounded, or the budget is too small now.
        """
        talk, demand = self.talk, self.demand
        if talk.turns:
            kv_evict.bind(context.ptr, seq)
            sizes = demand.sizes
            talk.use(demand.settings, sizes.capacity, sizes.decode, sizes.prefill)
        else:
            talk.cache = open_cache(context, demand, seq)
            if n_shared:
                talk.cache.adopt(n_shared)
        talk.n_predict = demand.n_predict
        self.cache = talk.cache
        self._steps = talk.read(self._turns, n_shared)
        n_new = sum(len(turn.tokens) for turn in self._turns)
        self._measure(context, self.n_end - n_new + n_shared)

    @property
    def n_end(self) -> int:
        """Position where the answer begins."""
        return self._turns[-1].stop

    @property
    def whole(self) -> tuple[int, ...]:
        """Tokens of the first turn, if their cells were never touched."""
        tokens = self.talk.turns[0].tokens if self.talk.turns else []
        n = len(tokens)
        if not self.demand.reads_whole or self.cache.n_past < n:
            return ()
        pos = self.cache.positions()[:, :, :n]
        return tuple(tokens) if pos.shape[2] == n and (pos == np.arange(n)).all() else ()

    def leave(self, cells: TalkCells, seq: int, keep: bool) -> None:
        """Let the conversation rest, with what was said; without `keep` it is forgotten."""
        if keep and self._said_any:
            self.talk.end_answer(self._said if self.done else self._said + self._text.finish())
        elif self._steps is not None:
            self._steps.close()  # forgets the turn that was read
        if keep and self.talk.turns:
            cells.rest(seq, self.talk, self.whole, self.request.branches)
        else:
            cells.clear(seq)

    def say(self) -> Event:
        """Tell the token that was chosen, and take note of it in the turn; see `Row.say`."""
        event = super().say()
        turn = self._turns[-1]
        assert event.response is not None and event.response.token is not None
        turn.n_decoded = self.cache.n_past - turn.stop
        if not self.model.is_eog(event.response.token):
            turn.answer.append(event.response.token)
        self._said += event.response.text
        return event

    @property
    def _said_any(self) -> bool:
        return bool(self._output)

    def _next_chunk(self) -> Sequence[int]:
        assert self._steps is not None
        return next(self._steps, ())

    def _begin_output(self) -> None:
        n = self.request.sampling.penalised
        self._sampler.accept_prompt(self.talk.tail(n))
        longest = self.talk.longest_answer()
        self._written = write(self.model, iter(self._last, None), self._text, longest)


def _with(demand: TalkDemand, turns: Sequence[Turn], n_kept: int = 0) -> TalkDemand:
    return replace(demand, n_kept=n_kept, n_new=sum(len(turn.tokens) for turn in turns))
