"""A conversation that has a context of its own, and goes back over its turns.

Going back returns to a mark by removing the cells after it, if nothing before it was evicted or
moved since. If it was, the turns are read anew: prompts in batches, answers token by token through
the policy, as they were written. Both give what a conversation has that never took the way that
was left.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from scope_cpp.engine import room, transcript
from scope_cpp.engine.cache import rewind
from scope_cpp.engine.cache.bounded import BoundedCache
from scope_cpp.engine.cache.state import restore, snapshot
from scope_cpp.engine.context import Context
from scope_cpp.engine.held_turns import HeldTurns, evicts
from scope_cpp.engine.model import Model
from scope_cpp.engine.rendering import Rendering
from scope_cpp.engine.settings import Settings
from scope_cpp.engine.sizes import CHAT_QUERIES, conversation_policies
from scope_cpp.engine.turns import Turn, common_prefix
from scope_cpp.errors import ScopeError
from scope_cpp.native.lifetime import Closable
from scope_cpp.policies import DecodePolicy, PrefillPolicy

Watch = Callable[[int, int, bool], None]


class CachedTurns(HeldTurns, Closable):
    """The context and cache of a conversation alone, and the turns that they hold.

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
        HeldTurns.__init__(self, model, settings, n_predict)
        Closable.__init__(self, "the conversation", "open another one", model)
        self.watch: Watch = lambda done, total, again: None
        self._applied = settings
        self._lost = False
        self._open_context(capacity, decode, prefill, settings)

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

    def run(self, rendering: Rendering, at: int) -> int:
        """Read what a rendering has after what is read; return how many tokens that were.

        Raises as `read` does.
        """
        turns = self.plan(rendering, at)
        n = sum(len(turn.tokens) for turn in turns)
        with self._watched(n, again=False):
            self.cache.run(self.read(turns))
        return n

    def read_again(self) -> None:
        """Compute the logits at the end of the last prompt once more."""
        turn = self.turns[-1]
        mark = turn.after
        if mark is None or not rewind.return_to(self.cache, mark, turn.tail, logits=True):
            self._read_anew(self.turns)

    # -- going back -----------------------------------------------------------------------

    def reconcile(self, rendered: str) -> int:
        """Go back to where the conversation and a rendering part; return how much of it is read."""
        k, at, where = self.part(rendered)
        if where == "prompt":
            return self._part_in_prompt(k, rendered, at)
        if where == "answer":
            self.go_back(k, keep_prompt=True)
        return at

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
        self.cache.run(self._read_turn(turn))
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
