"""The turns of a conversation as they lie in a sequence: read, written, and gone back over.

All turns lie in one sequence of llama.cpp, at their true positions, and nothing is read twice: a
turn reads what the chat template adds to the rendering before. What is to be decoded is yielded:
a conversation decodes it alone (`cached_turns`), the engine for many beside others (`parallel`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace

from scope_cpp.engine import room
from scope_cpp.engine.cache import rewind
from scope_cpp.engine.cache.bounded import BoundedCache, Steps
from scope_cpp.engine.cache.marks import Mark
from scope_cpp.engine.chat import as_text
from scope_cpp.engine.length import longest_answer
from scope_cpp.engine.model import Model
from scope_cpp.engine.regions import Piece, find_regions
from scope_cpp.engine.rendering import Rendering, ends_plain
from scope_cpp.engine.settings import Settings
from scope_cpp.engine.sizes import CHAT_QUERIES
from scope_cpp.engine.turns import Region, Turn, match_answer
from scope_cpp.errors import ScopeError
from scope_cpp.policies import DecodePolicy, PrefillPolicy


@dataclass(frozen=True, eq=False)
class Place:
    """Where a rendering parts from the turns that are held.

    Attributes
    ----------
    at
        Character of the rendering from which on it is to be read.
    n_turns
        Turns that stay.
    n_answer
        Tokens of the answer of the last of them that stay; ``None`` for all.
    n_past
        Tokens that stay.
    mark
        The mark there, if going back has to find one.
    """

    at: int
    n_turns: int
    n_answer: int | None
    n_past: int
    mark: Mark | None


class HeldTurns:
    """The turns that a sequence holds.

    Parameters
    ----------
    model
    settings
        Of the turn that is read or written.
    n_predict
        Longest answer in tokens; ``None`` for no limit.

    Attributes
    ----------
    cache
        The sequence.
    turns
        In order.
    """

    cache: BoundedCache

    def __init__(self, model: Model, settings: Settings, n_predict: int | None) -> None:
        self.model, self.settings, self.n_predict = model, settings, n_predict
        self.turns: list[Turn] = []

    @property
    def last(self) -> Turn | None:
        """The last turn, if there is one."""
        return self.turns[-1] if self.turns else None

    def tail(self, n: int) -> list[int]:
        """The last `n` tokens of the conversation, or some more."""
        return _tail(self.turns, n)

    def use(
        self, settings: Settings, capacity: int, decode: DecodePolicy, prefill: PrefillPolicy
    ) -> None:
        """Choose by other settings from now on, within `capacity` cells.

        Raises
        ------
        ScopeError
            If what may not give way takes more cells.
        """
        cache = self.cache
        if capacity < cache.capacity:
            room.check_shrink(cache, self.turns, capacity, decode)
        whole_cells = settings.granularity == "cell"
        before = cache.decode_policy, cache.prefill_policy, cache.whole_cells
        if before != (decode, prefill, whole_cells):
            cache.set_policies(decode, prefill, whole_cells, evicts(decode, prefill), CHAT_QUERIES)
        if capacity < cache.capacity:
            room.shrink(cache, self.turns, capacity, decode)
        cache.capacity, self.settings = capacity, settings

    # -- reading --------------------------------------------------------------------------

    def plan(
        self, rendering: Rendering, at: int = 0, kept: Sequence[Turn] | None = None
    ) -> list[Turn]:
        """Return what a rendering has after what is read, as turns that `read` takes.

        Parameters
        ----------
        rendering, at
            The rendering, and the character from which on it is not read.
        kept
            The turns that are read, if not all that are held.
        """
        kept = self.turns if kept is None else kept
        turns: list[Turn] = []
        start = kept[-1].stop + kept[-1].n_decoded if kept else 0
        unread = kept[-1].answer[kept[-1].n_decoded :] if kept else []
        for stop, messages in rendering.pieces(at):
            known = [*kept, *turns]
            text = rendering.text[at:stop]
            after_special = not ends_plain(self.model, _tail(known, 1))
            fresh = rendering.tokenize(at, stop, after_special)
            regions = []
            if unread:
                regions.append(Region("answer", known[-1].index, start, start + len(unread)))
            regions += find_regions(
                rendering,
                messages,
                known[-1] if known else None,
                Piece(text, fresh, at == 0, after_special),
                start + len(unread),
            )
            turn = Turn(
                index=max(0, sum(message["role"] == "user" for message in messages) - 1),
                settings=self.settings,
                start=start,
                tokens=[*unread, *fresh],
                n_unread=len(unread),
                text=text,
                regions=regions,
            )
            turns.append(turn)
            at, unread, start = stop, [], turn.stop
        return turns

    def read(self, turns: Sequence[Turn], n_held: int = 0) -> Steps:
        """Read turns, up to where the answer begins; `n_held` tokens of the first are there.

        Yields
        ------
        tokens
            See `BoundedCache.read`. If the steps are broken off, the turn is forgotten.

        Raises
        ------
        ScopeError
            If there is no room; the turns before are there then, or found again later.
        """
        for turn in turns:
            self.turns.append(turn)
            try:
                yield from self._read_turn(turn, n_held)
                n_held = 0
            except BaseException:
                self.turns.remove(turn)
                if not rewind.forget_after(self.cache, turn.start):
                    self._lose_cells()
                raise

    def _read_turn(self, turn: Turn, n_held: int = 0) -> Steps:
        """Make room, read the tokens of a turn, and be ready for its answer."""
        cache = self.cache
        self._hold()
        cache.begin_turn()
        turn.before = rewind.mark(cache)
        n, size = len(turn.tokens) - n_held, min(self.settings.n_ubatch, cache.context.n_batch)
        pool = room.answer_pool(cache.decode_policy, self._longest(n))
        make_room: Callable[[int], None] | None = None
        if cache.decode_policy.ranks_prompt:
            room.require_room(cache, self.turns, n + 1)
            make_room, size = cache.make_room_by_policy, cache.most_at_once(cache.decode_policy)
        elif not room.make_way(cache, self.turns, turn.start, n + pool):
            # the prefill policy thins this prompt too, while it is read
            size, left = min(CHAT_QUERIES, cache.prefill_policy.chunk(cache.capacity)), n

            def make_room(n_next: int) -> None:
                nonlocal left
                left -= n_next
                needed = n_next + (0 if left else pool)
                if not room.make_way(cache, self.turns, turn.start, needed):
                    room.require_room(cache, self.turns, needed)

        yield from cache.read(turn.tokens[n_held:], size, make_room)
        cache.begin_output(self._longest(0))
        turn.n_last = cache.n_last
        turn.after = rewind.mark(cache, cache.last_beside)

    def _hold(self) -> None:
        """Let no policy give up what a conversation must keep."""
        cache = self.cache
        keeps_messages = cache.decode_policy.keeps_messages
        cache.held = room.to_hold(self.turns, cache.capacity, keeps_messages)

    # -- writing --------------------------------------------------------------------------

    def longest_answer(self) -> int | None:
        """Longest answer from here; the last token of an answer takes no cell yet.

        Raises
        ------
        ScopeError
            If the longest conversation is reached.
        """
        longest = self._longest(0)
        if self.cache.decode_policy.name != "full":
            return longest
        n_free = self.cache.capacity - self.cache.stats.cells_used + 1
        return n_free if longest is None else min(n_free, longest)

    def _longest(self, n_more: int) -> int | None:
        """Longest answer after `n_more` tokens."""
        n_past = self.cache.n_past + n_more
        return longest_answer(self.settings, self.model, n_past, self.n_predict, self.turns)

    def end_answer(self, text: str) -> None:
        """Freeze the last answer, of which `text` is kept.

        The tokens of a stop string after it are taken back, if no selection has weighed them.
        """
        turn = self.turns[-1]
        turn.n_decoded = self.cache.n_past - turn.stop
        n = len(turn.answer)
        while n and not text.startswith(self._text_of(turn.answer[:n])):
            n -= 1
        dropped = turn.n_decoded - n
        if dropped > 0:
            try:
                rewind.rollback_unselected(self.cache, dropped)
            except ScopeError:
                return  # the next turn reads the answer anew, without them
            turn.trimmed = turn.answer[n : turn.n_decoded]
            turn.n_decoded = n
        turn.answer = turn.answer[:n]

    def _text_of(self, tokens: Sequence[int]) -> str:
        pieces = b"".join(self.model.token_to_piece(token) for token in tokens)
        return pieces.decode("utf-8", errors="replace")

    # -- going back -----------------------------------------------------------------------

    def part(self, rendered: str) -> tuple[int, int, str | None]:
        """Find where a rendering parts from the turns.

        Returns
        -------
        k, at, where
            The turn, and the character of the rendering, up to which both are alike; and whether
            it parts in what was read (``"prompt"``) or in the ``"answer"``, ``None`` for neither.
        """
        at = 0
        for k, turn in enumerate(self.turns):
            if not rendered.startswith(turn.text, at):
                return k, at, "prompt"
            at += len(turn.text)
            if not turn.answer:
                continue
            if turn.shown[0] != len(turn.answer):
                text = as_text(self.model, self._text_of(turn.answer))
                turn.shown = len(turn.answer), text
            end = match_answer(rendered, at, turn.shown[1])
            if end is None:
                return k, at, "answer"
            at = end
        return len(self.turns), at, None

    def find_place(self, rendered: str) -> Place | None:
        """Find the last place from which on a rendering can be read; ``None`` if there is none.

        It is one that is as it was, or where what is left of the cells before can be taken.
        """
        places = self._places(rendered)
        return next((place for place in places if place.n_turns and self._reaches(place)), None)

    def _places(self, rendered: str) -> Iterator[Place]:
        """Places before which a rendering and the turns are alike, the last first."""
        k, at, where = self.part(rendered)
        if where is None and at < len(rendered):
            yield Place(at, k, None, self.cache.n_past, None)
        if where == "answer" and at < len(rendered):
            turn = self.turns[k]
            n = self._n_alike(turn.answer, rendered[at : at + len(turn.shown[1])])
            if n:
                text = as_text(self.model, self._text_of(turn.answer[:n]))
                yield Place(at + len(text), k + 1, n, turn.stop + min(n, turn.n_decoded), None)
            yield Place(at, k + 1, 0, turn.stop, turn.after)
        if where != "prompt" and self.turns:
            k = min(k, len(self.turns) - 1)
            at -= len(self.turns[k].text)
        if k < len(self.turns):
            yield Place(at, k, None, self.turns[k].start, self.turns[k].before)

    def _n_alike(self, answer: Sequence[int], rendered: str) -> int:
        """Tokens of an answer that a rendering begins with."""
        low, high = 0, len(answer) - 1
        while low < high:
            half = (low + high + 1) // 2
            if rendered.startswith(as_text(self.model, self._text_of(answer[:half]))):
                low = half
            else:
                high = half - 1
        return low

    def kept(self, place: Place) -> list[Turn]:
        """Return the turns that stay at a place, as they are then."""
        turns, n = self.turns[: place.n_turns], place.n_answer
        if n is not None:
            last = turns[-1]
            n_decoded = min(n, last.n_decoded)
            turns[-1] = replace(last, answer=last.answer[:n], n_decoded=n_decoded, trimmed=[])
        return turns

    def return_to(self, place: Place) -> None:
        """Forget what comes after a place.

        As if it had never been there, if the place `stands`; else what is left is taken as it is.
        """
        if place.n_past < self.cache.n_past:
            tail = self.turns[place.n_turns - 1].tail if place.n_answer == 0 else []
            if place.mark is None or not rewind.return_to(self.cache, place.mark, tail):
                rewind.forget_after(self.cache, place.n_past)
        self.turns = self.kept(place)

    def stands(self, place: Place) -> bool:
        """Whether all that lies before a place is as it was there."""
        if place.mark is None:
            return place.n_past == self.cache.n_past
        return rewind.stands(self.cache, place.mark)

    def _reaches(self, place: Place) -> bool:
        """Whether what comes after a place can be forgotten."""
        return self.stands(place) or rewind.can_forget(self.cache, place.n_past)

    def copied(self, place: Place, cache: BoundedCache) -> HeldTurns:
        """Return the same up to a place that `stands`, in another cache that has these cells."""
        old = self.cache
        if place.mark is None:
            old.settle()
        marks = [mark for mark in old.marks.all if mark.n_past <= place.n_past]
        copy = HeldTurns(self.model, self.settings, self.n_predict)
        copy.turns, kept, mark = deepcopy((self.kept(place), marks, place.mark))
        copy.cache = cache
        cache.take_rows(old, place.n_past, kept)
        if mark is not None:
            rewind.return_to(cache, mark)
        return copy

    def begins(self, other: HeldTurns) -> bool:
        """Whether this begins with all that another one is."""
        n = other.cache.n_past
        return n <= self.cache.n_past and self.tail(self.cache.n_past)[:n] == other.tail(n)

    @property
    def n_bytes(self) -> int:
        """Bytes of main memory in what is known of the rows."""
        ledger, marks = self.cache.ledger, self.cache.marks.all
        scores = [mark.scores.nbytes for mark in marks if mark.scores is not None]
        known = ledger.labels.nbytes + ledger.pos.nbytes + ledger.scores.nbytes + sum(scores)
        return known + self.cache.stats.query_bytes

    def _lose_cells(self) -> None:
        """Empty the cache."""
        self.cache.clear()


def evicts(decode: DecodePolicy, prefill: PrefillPolicy) -> bool:
    """Whether these policies ever evict anything."""
    return decode.name != "full" or prefill.name != "full"


def _tail(turns: Sequence[Turn], n: int) -> list[int]:
    tokens: list[int] = []
    for turn in reversed(turns):
        tokens = [*turn.tokens, *turn.answer[: turn.n_decoded], *tokens]
        if len(tokens) >= n:
            break
    return tokens
