"""Conversations that rest in their cells between two turns, and are found again.

A conversation is known by what it has read and written. A chat that begins with that goes on from
there; one that parts from it earlier goes back, or gets copies where cells are there for both.
The least recently used give way, as prompts that rest do.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from scope_cpp.engine.cache.bounded import BoundedCache
from scope_cpp.engine.context import Context
from scope_cpp.engine.held_turns import HeldTurns, Place
from scope_cpp.engine.parallel.cells import Cells
from scope_cpp.engine.parallel.demand import TalkDemand
from scope_cpp.engine.sizes import CHAT_QUERIES
from scope_cpp.native import kv_evict


class TalkCells(Cells):
    """Cells in which conversations may rest; parameters as for `Cells`.

    All that rests takes ``prefix_cells`` at most, and what is known of the rows of conversations as
    much main memory as so many cells; but the last one that was held may take more.

    Attributes
    ----------
    talks
        The conversations that rest, by their sequences.
    n_changes
        Grows when others rest than before.
    """

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self.talks: dict[int, HeldTurns] = {}
        self.n_changes = 0
        self._recorded: list[int] = []  # those of the talks whose last queries are recorded still

    @property
    def can_talk(self) -> bool:
        """Whether conversations can be held in these cells."""
        return self.shares and self.countable

    def find(self, rendered: str) -> tuple[int, Place] | None:
        """Find the conversation that has most of a rendering, and where they part."""
        found = [(seq, talk, talk.find_place(rendered)) for seq, talk in self.talks.items()]
        places = [
            ((place.at, talk.stands(place), place.mark is None), seq, place)
            for seq, talk, place in found
            if place is not None
        ]
        best = max(places, key=lambda one: one[0], default=None)
        return None if best is None else best[1:]

    def take_up(
        self,
        seq: int,
        place: Place,
        demand: TalkDemand,
        running: Sequence[int],
        promised: int,
        branches: bool,
    ) -> tuple[int, HeldTurns] | None:
        """Take up a conversation that rests, or a copy where something of it is left behind.

        Parameters
        ----------
        seq, place
            As `find` found them.
        demand, running, promised
            As for `Cells.take`.
        branches
            Whether others go on from there as well.

        Returns
        -------
        seq, talk
            Its sequence, and its turns; ``None`` if it must wait.
        """
        talk, needed = self.talks[seq], promised + demand.n_cells
        parts = branches or place.n_past < talk.cache.n_past
        n_free = self._n_cells - self._n_held([*running, seq], -1, 0)
        if parts and needed <= n_free and talk.stands(place):
            self._rise(seq)
            self._give_way(needed, -1, 0)
            copy = self._free.pop()
            self.context.copy(seq, copy, place.n_past, self._free[-1])
            self._lie_down(seq, talk)
            self.record(copy, len(running))
            return copy, talk.copied(place, open_cache(self.context, demand, copy))
        if needed > self._n_cells - self._n_held(running, -1, 0) or (branches and running):
            return None
        self._rise(seq)
        talk.return_to(place)
        self._give_way(needed - demand.n_kept, -1, 0)
        return seq, talk

    def record(self, seq: int, n_running: int) -> None:
        """Let the queries of a sequence be recorded that is about to run beside others.

        Conversations that rest have their attention weighed, and are recorded no more.
        """
        if seq in self._recorded:
            self._recorded.remove(seq)
        n_slots = self.context.params.n_slots
        while self._recorded and n_running + len(self._recorded) >= n_slots:
            other = self._recorded.pop(0)
            self.talks[other].cache.settle()
            kv_evict.release(self.context.ptr, other)

    def rest(self, seq: int, talk: HeldTurns, whole: Sequence[int], branches: bool) -> None:
        """Let a conversation rest; others may copy its `whole` first tokens.

        Where it `branches` it rests in whatever cells there are: it must not take the place of what
        the others go on from.
        """
        self.forget(seq)
        if not self._n_resting:
            self.clear(seq)
            return
        self.note(seq, whole, own=True)
        self._recorded.append(seq)
        covered = [] if branches else [o for o, other in self.talks.items() if talk.begins(other)]
        for other in covered:
            self.clear(other)
        self._lie_down(seq, talk)
        resting = self._prefixes.resting
        while len(resting) > self._n_resting or (
            len(resting) > 1 and not branches and self._rests_too_much()
        ):
            self.clear(resting[0])

    def _rests_too_much(self) -> bool:
        per_cell = sum(kv_evict.memory(self.context.ptr)["cells"]) // self.context.n_cells
        return (
            self.n_resting_cells() > self._prefix_cells
            or self._n_known_bytes() > self._prefix_cells * per_cell
        )

    def _rise(self, seq: int) -> None:
        self._prefixes.resting.remove(seq)
        self._drop(seq)

    def _lie_down(self, seq: int, talk: HeldTurns) -> None:
        self._prefixes.rest_longer(seq)
        self.talks[seq] = talk
        self.n_changes += 1

    def _drop(self, seq: int) -> None:
        """Note that a sequence is no conversation that rests any more."""
        if self.talks.pop(seq, None) is not None:
            self.n_changes += 1

    def _shorten(self, seq: int, n: int) -> None:
        super()._shorten(seq, n)
        self._drop(seq)

    def _may_move(self, source: int, n: int) -> bool:
        """As for `Cells`; a conversation is not given up for what it begins with."""
        return source not in self.talks and super()._may_move(source, n)

    def clear(self, seq: int) -> None:
        """Free a sequence and its cells, but for those that others have too."""
        super().clear(seq)
        self._drop(seq)
        if seq in self._recorded:
            self._recorded.remove(seq)

    def n_copied_bytes(self) -> int:
        """Bytes of main memory that are kept for later prompts."""
        return super().n_copied_bytes() + self._n_known_bytes()

    def _n_known_bytes(self) -> int:
        return sum(talk.n_bytes for talk in self.talks.values())


def open_cache(context: Context, demand: TalkDemand, seq: int) -> BoundedCache:
    """Open the cache of a conversation."""
    sizes = demand.sizes
    return BoundedCache(
        context,
        sizes.capacity,
        sizes.decode,
        sizes.prefill,
        whole_cells=demand.whole_cells,
        n_predict=demand.n_predict,
        bounded=sizes.bounded,
        seq=seq,
        n_queries=CHAT_QUERIES,
    )
