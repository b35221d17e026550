"""The turns of a conversation as they lie in its cache: read, written, and gone back over.

All turns lie in one sequence of llama.cpp, at their true positions, and nothing is read twice: a
turn reads what the chat template adds to the rendering before.

Going back returns to a mark by removing the cells after it, if nothing before it was evicted or
moved since. If it was, the turns are read anew: prompts in batches, answers token by token through
the policy, as they were written. Both give what a conversation has that never took the way that
was left.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress

from scope_cpp.engine import room, transcript
from scope_cpp.engine.cache import rewind
from scope_cpp.engine.cache.bounded import BoundedCache
from scope_cpp.engine.cache.state import restore, snapshot
from scope_cpp.engine.chat import as_text
from scope_cpp.engine.context import Context
from scope_cpp.engine.length import longest_answer
from scope_cpp.engine.model import Model
from scope_cpp.engine.regions import Piece, find_regions
from scope_cpp.engine.settings import Settings
from scope_cpp.engine.sizes import CHAT_QUERIES, conversation_policies
from scope_cpp.engine.turns import Region, Turn, common_prefix, match_answer
from scope_cpp.errors import ScopeError
from scope_cpp.native.lifetime import Closable
from scope_cpp.policies import DecodePolicy, PrefillPolicy

Watch = Callable[[int, int, bool], None]


class CachedTurns(Closable):
    """The context and cache of a conversation, and the turns that they hold.

    Parameters
    ----------
    model
        Closing it closes this.
    settings
        Of the conversation.
    capacity, decode, prefill
        What the settings come to.
    n_predict
        Longest answer in tokens; ``None`` for no limit.

    Attributes
    ----------
    turns
        In order.
    watch
        Called while turns are read: the tokens that are done, how many they are, and whether they
        were there before and are read again.
    """

    def __init__(
        self,
        model: Model,
        settings: Settings,
        capacity: int,
        decode: DecodePolicy,
        prefill: PrefillPolicy,
        n_predict: int | None,
    ) -> None:
        super().__init__("the conversation", "open another one", model)
        self.model, self.settings, self.n_predict = model, settings, n_predict
        self.turns: list[Turn] = []
        self.watch: Watch = lambda done, total, again: None
        self._applied = settings
        self._lost = False
        self._open_context(capacity, decode, prefill, settings)

    @property
    def last(self) -> Turn | None:
        """The last turn, if there is one."""
        return self.turns[-1] if self.turns else None

    def tail(self, n: int) -> list[int]:
        """The last `n` tokens of the conversation, or some more."""
        tokens: list[int] = []
        for turn in reversed(self.turns):
            tokens = [*turn.tokens, *turn.answer[: turn.n_decoded], *tokens]
            if len(tokens) >= n:
                break
        return tokens

    # -- settings -------------------------------------------------------------------------

    def set_policies(
        self, settings: Settings, decode: DecodePolicy, prefill: PrefillPolicy
    ) -> None:
        """Choose by the policies of other settings from now on; the cells stay.

        Raises
        ------
        ScopeError
            As of `BoundedCache.set_policies`; nothing is changed then.
        """
        self._set_policies(settings, decode, prefill)
        self.settings = settings

    def resize(
        self, settings: Settings, capacity: int, decode: DecodePolicy, prefill: PrefillPolicy
    ) -> None:
        """Move the cells into a context of another size, after what has no room gave way.

        Raises
        ------
        ScopeError
            If the new context has no memory; nothing is changed then.
        """
        old = self.cache
        was = old.capacity, old.decode_policy, old.prefill_policy
        before = snapshot(old)
        try:
            if old.stats.cells_used > capacity:
                room.shrink(old, self.turns, capacity, decode)
            moved = snapshot(old, places=False)
            self.context.close()
            self._open_context(capacity, decode, prefill, settings)
            restore(self.cache, moved)
            self.cache.stats.cells_peak = self.cache.stats.cells_used
        except BaseException:
            self.context.close()
            self._open_context(*was, self.settings)
            restore(self.cache, before)
            raise
        self.settings = self._applied = settings

    # -- reading --------------------------------------------------------------------------

    def read(
        self,
        rendered: str,
        at: int,
        unread: list[int],
        index: int,
        messages: Sequence[dict[str, str]],
        template: str | None,
    ) -> Turn:
        """Read what a rendering has after what is read, as a turn of its own.

        Parameters
        ----------
        rendered, at, unread
            The rendering of `messages`, and what of it is read; see `reconcile`.
        index
            The user message that it ends with.
        messages, template
            Of the conversation.

        Raises
        ------
        ScopeError
            If there is no room; the turns before are there then, or found again later.
        """
        text = rendered[at:]
        after_special = not self.turns or not self._is_plain_end()
        fresh = transcript.tokenize(self.model, text, at == 0, after_special)
        piece = Piece(text, fresh, at == 0, after_special)
        start = self.cache.n_past
        regions = []
        if unread:
            regions.append(Region("answer", self.turns[-1].index, start, start + len(unread)))
        regions += find_regions(
            self.model, template, messages, self.last, piece, start + len(unread)
        )
        turn = Turn(
            index=index,
            settings=self.settings,
            start=start,
            tokens=[*unread, *fresh],
            n_unread=len(unread),
            text=text,
            regions=regions,
        )
        self.turns.append(turn)
        try:
            with self._watched(len(turn.tokens), again=False):
                self._read_turn(turn)
        except BaseException:
            self.turns.remove(turn)
            if not rewind.forget_after(self.cache, turn.start):
                self._lose_cells()
            raise
        return turn

    def _is_plain_end(self) -> bool:
        """Whether the conversation ends with text, not with a control token."""
        tail = self.tail(1)
        return bool(tail) and self.model.token_to_piece(tail[-1]) != b""

    def _read_turn(self, turn: Turn) -> None:
        """Make room, read the tokens of a turn, and be ready for its answer."""
        cache = self.cache
        self._hold()
        cache.begin_turn()
        turn.before = rewind.mark(cache)
        n, size = len(turn.tokens), min(self.settings.n_ubatch, self.context.n_batch)
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

        cache.read(turn.tokens, size, make_room)
        cache.begin_output(self._longest(0))
        turn.n_last = cache.n_last
        turn.after = rewind.mark(cache, cache.last_beside)

    def read_again(self) -> None:
        """Compute the logits at the end of the last prompt once more."""
        turn = self.turns[-1]
        mark = turn.after
        if mark is None or not rewind.return_to(self.cache, mark, turn.tail, logits=True):
            self._read_anew(self.turns)

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

    def reconcile(self, rendered: str) -> tuple[int, list[int]]:
        """Go back to where the conversation and a rendering part.

        Returns
        -------
        at, unread
            How much of the rendering is read; sampled tokens before `at` that are not.
        """
        at = 0
        for k, turn in enumerate(self.turns):
            if not rendered.startswith(turn.text, at):
                return self._part_in_prompt(k, rendered, at), []
            at += len(turn.text)
            if not turn.answer:
                continue
            answer = as_text(self.model, self._text_of(turn.answer))
            end = match_answer(rendered, at, answer)
            if end is None:
                self.go_back(k, keep_prompt=True)
                return at, []
            at = end
        unread = self.turns[-1].answer[self.turns[-1].n_decoded :] if self.turns else []
        return at, unread

    def _part_in_prompt(self, k: int, rendered: str, at: int) -> int:
        """Keep what turn `k` and a rendering begin with alike, if it ends with a token."""
        turn = self.turns[k]
        n_chars = common_prefix(turn.text, rendered[at:])
        same = transcript.tokenize(self.model, turn.text[:n_chars], k == 0, k == 0)
        n = turn.n_unread + len(same)
        if n_chars and turn.tokens[turn.n_unread : n] == same and n < len(turn.tokens):
            self.go_back(k, keep_prompt=True)
            dropped = len(turn.tokens) - n
            if self.turns and self.turns[-1] is turn:
                with suppress(ScopeError):
                    rewind.rollback(self.cache, dropped)
                    turn.shorten(n, n_chars)
                    return at + n_chars
        self.go_back(k, keep_prompt=False)
        return at

    def go_back(self, k: int, keep_prompt: bool) -> None:
        """Forget all from turn `k` on, or only what came after its prompt."""
        turn = self.turns[k]
        mark = turn.after if keep_prompt else turn.before
        tail = turn.tail if keep_prompt else []
        rest = self.turns[: k + keep_prompt]
        if keep_prompt:
            turn.forget_answer()
        if mark is None or not rewind.return_to(self.cache, mark, tail):
            self._read_anew(rest)
        self.turns = rest

    def forget_message(self, index: int) -> None:
        """Forget all that was read and written from user message `index` on."""
        for k, turn in enumerate(self.turns):
            if turn.index >= index:
                self.go_back(k, keep_prompt=False)
                return

    def forget_all(self) -> None:
        """Forget everything."""
        self.turns = []
        self._lose_cells()

    def start_over(self, index: int) -> None:
        """Forget what was read from user message `index` on, and every number in the cells.

        For a context where NaN was met. The turns before are read anew, see `find_cells`.
        """
        self.turns = [turn for turn in self.turns if turn.index < index]
        self.context.wipe()
        self._lose_cells()

    def find_cells(self) -> None:
        """Have the cells of all turns, if going through them again was broken off."""
        self._hold()
        if self._lost:
            self._read_anew(self.turns)

    def _lose_cells(self) -> None:
        """Empty the cache: the next turn begins with going through the others again."""
        self.cache.clear()
        self._lost = bool(self.turns)

    def _read_anew(self, turns: list[Turn]) -> None:
        """Empty the cache and go through these turns as they went."""
        settings, self.turns = self.settings, []
        self.cache.clear()
        self._lost = True
        try:
            with self._watched(sum(turn.n_decoded_at_all for turn in turns), again=True):
                for turn in turns:
                    self._go_through(turn)
            self._lost = False
        finally:
            self.turns = turns
            if self._lost:
                self.cache.clear()
            self._apply(settings)

    def _go_through(self, turn: Turn) -> None:
        """Read a turn, and write what was answered."""
        self._apply(turn.settings)
        self.turns.append(turn)
        turn.start = self.cache.n_past
        self._read_turn(turn)
        for token in [*turn.answer[: turn.n_decoded], *turn.trimmed]:
            self.cache.decode(token)
        if turn.trimmed:
            rewind.rollback(self.cache, len(turn.trimmed))

    @contextmanager
    def _watched(self, total: int, again: bool) -> Iterator[None]:
        """Tell `watch` of the tokens that are decoded in the block."""
        cache, start = self.cache, self.cache.n_computed

        def tell() -> None:
            self.watch(cache.n_computed - start, total, again)

        if total:
            tell()
        cache.computed = tell
        try:
            yield
        finally:
            cache.computed = lambda: None

    def _apply(self, settings: Settings) -> None:
        """Give the cache the policies of `settings`."""
        if settings != self._applied:
            capacity = self.cache.capacity
            self._set_policies(settings, *conversation_policies(settings, capacity, self.n_predict))

    # -- the cache ------------------------------------------------------------------------

    def _set_policies(
        self, settings: Settings, decode: DecodePolicy, prefill: PrefillPolicy
    ) -> None:
        whole_cells = settings.granularity == "cell"
        self.cache.set_policies(decode, prefill, whole_cells, evicts(decode, prefill), CHAT_QUERIES)
        self._applied = settings

    def _open_context(
        self, capacity: int, decode: DecodePolicy, prefill: PrefillPolicy, settings: Settings
    ) -> None:
        self.context = Context(self.model, settings.context_params(capacity))
        self.adopt(self.context)
        try:
            self.cache = BoundedCache(
                self.context,
                capacity,
                decode,
                prefill,
                whole_cells=settings.granularity == "cell",
                n_predict=self.n_predict,
                bounded=evicts(decode, prefill),
                n_queries=CHAT_QUERIES,
            )
        except BaseException:
            self.context.close()
            raise


def evicts(decode: DecodePolicy, prefill: PrefillPolicy) -> bool:
    """Whether these policies ever evict anything."""
    return decode.name != "full" or prefill.name != "full"
