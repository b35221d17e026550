"""One row: a sequence of its own, from its prompt to its last token."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Hashable, Sequence, Set
from concurrent.futures import Executor, Future

from scope_cpp.engine.cache.bounded import BoundedCache
from scope_cpp.engine.context import Context
from scope_cpp.engine.context import Row as Entry
from scope_cpp.engine.generate import Meter, Response, Warn, write
from scope_cpp.engine.model import Model
from scope_cpp.engine.parallel.demand import Demand
from scope_cpp.engine.parallel.request import Event, Request
from scope_cpp.engine.parallel.talk_cells import TalkCells
from scope_cpp.engine.sampling import Sampler, alternatives
from scope_cpp.engine.text import TextStream


class Row:
    """A request that waits; after `begin` it runs.

    Each step `feed` tells what to decode, `decoded` takes note of it, and once the prompt is read
    `choose` samples from it and `say` tells the token.

    Attributes
    ----------
    cache
        Its cells; there once it runs.
    token
        The last token, not decoded yet; ``None`` while the prompt is read.
    choice
        The next token, if another thread chooses it; ``None`` else.
    pauses
        After how many tokens of the prompt a part ends that is decoded.
    done
        Whether its last token was said.
    suspect_until
        As long as it has fewer tokens than that, what it feeds has to be decoded on its own.

    Raises
    ------
    UsageError
        For a wrong stop string, grammar or bias.
    """

    cache: BoundedCache
    choice: Future[int] | None = None
    pauses: Set[int] = frozenset()
    done = False
    suspect_until = 0

    def __init__(
        self, key: Hashable, request: Request, demand: Demand, model: Model, warn: Warn
    ) -> None:
        self.key, self.request, self.demand, self.model = key, request, demand, model
        self.token: int | None = None
        self._output: list[int] = []
        self._warn = warn
        self._text = TextStream(request.stop)
        self._sampler = Sampler(model, request.sampling, request.schema)
        self._written = write(model, iter(self._last, None), self._text, demand.n_predict)
        self._chunk: Sequence[int] = ()
        self._said_before: deque[int] = deque()
        self._meter: Meter | None = None
        self._started = time.perf_counter()

    def enter(
        self, cells: TalkCells, running: Sequence[int], promised: int
    ) -> tuple[int, int] | None:
        """Find a sequence and cells, see `Cells.take`; ``None`` if the row must wait."""
        return cells.take(self.demand, running, promised)

    def leave(self, cells: TalkCells, seq: int, keep: bool) -> None:
        """Give the sequence and its cells back; with `keep` others may begin with what it has."""
        if keep and self.done:
            cells.finish(seq, self.whole)
        else:
            cells.clear(seq)

    def begin(self, context: Context, seq: int, n_shared: int) -> None:
        """Run as sequence `seq`, which has the cells of the first `n_shared` tokens already.

        Raises
        ------
        ScopeError
            If the cache can't be bounded.
        """
        demand, sizes = self.demand, self.demand.sizes
        self.cache = BoundedCache(
            context,
            sizes.capacity,
            sizes.decode,
            sizes.prefill,
            whole_cells=demand.whole_cells,
            n_predict=demand.n_predict,
            bounded=sizes.bounded,
            seq=seq,
        )
        if n_shared:
            self.cache.adopt(n_shared)
        self.cache.begin_prompt(demand.tokens)
        self._measure(context, n_shared)

    def _measure(self, context: Context, n_shared: int) -> None:
        """Begin to count and to time."""
        if self._meter is None:
            self._started = time.perf_counter()
            sizes = self.n_end, self.demand.sizes.capacity
            self._meter = Meter(self.model, context, *sizes, self._warn, n_shared)

    @property
    def n_end(self) -> int:
        """Position after the prompt."""
        return len(self.demand.tokens)

    def start_over(self, n: int) -> None:
        """Wait to `begin` again; what was said is decoded anew then, not chosen.

        It is a suspect until it has `n` tokens more than now.
        """
        self.suspect_until = self.cache.n_past + n
        self._said_before = deque(self._output)
        self._chunk, self.token = (), None

    @property
    def reading(self) -> bool:
        """Whether the prompt is not read yet."""
        return self.token is None and self.choice is None

    @property
    def suspect(self) -> bool:
        """Whether what it feeds may be what gave NaN in a batch with other rows."""
        return self.cache.n_past < self.suspect_until

    @property
    def growth(self) -> int:
        """Cells that the row may still take beyond those that it has."""
        return self.demand.n_cells - self.cache.stats.cells_used

    @property
    def whole(self) -> tuple[int, ...]:
        """Tokens, from the first on, whose cells are all there and were never touched.

        The output's are, if none was evicted yet.
        """
        prompt = self.demand.tokens
        if self.cache.n_past < len(prompt) or not self.demand.reads_whole or self.spoiled:
            return ()
        if self.cache.stats.evicted:
            return prompt
        return (*prompt, *self._output[: self.cache.n_past - len(prompt)])

    @property
    def spoiled(self) -> bool:
        """Whether cells of the prompt may be gone."""
        return self.cache.stats.evicted > 0 and not self.demand.keeps_prompt

    def feed(self, limit: int) -> list[Entry]:
        """Make room for what comes next, and return it: a token, or at most `limit` of the prompt.

        The prompt is divided as it would be alone, for the sake of policies that choose while they
        read; a division that exceeds the limit, or has a pause in it, is decoded in several goes.
        """
        cache = self.cache
        if self.token is not None:
            cache.make_room()
            return [Entry(self.token, cache.n_past, cache.seq, True)]
        self._chunk = self._chunk or self._next_chunk()
        limit = min([limit, *(n - cache.n_past for n in self.pauses if n > cache.n_past)])
        part, self._chunk = self._chunk[:limit], self._chunk[limit:]
        last = self.n_end - 1
        return [
            Entry(token, pos, cache.seq, pos == last)
            for pos, token in enumerate(part, start=cache.n_past)
        ]

    def decoded(self, n: int) -> bool:
        """Take note that what `feed` gave, `n` tokens, was decoded; whether the prompt is read."""
        self.cache.decoded(n)
        if not self.reading:
            return True
        if self.cache.n_past < self.n_end:
            return False
        self._next_chunk()  # there is none: the output begins
        if not self._output:
            self._begin_output()
        return True

    def _next_chunk(self) -> Sequence[int]:
        """What of the prompt is to be decoded next; empty once all is."""
        return self.cache.next_chunk()

    def _begin_output(self) -> None:
        self._sampler.accept_prompt(self.demand.tokens)

    def says_again(self) -> bool:
        """Take the next token from what was said before the row began again, if any is left."""
        if not self._said_before:
            return False
        self.token = self._said_before.popleft()
        return True

    def choose(self, i: int, pool: Executor) -> None:
        """Sample from the `i`-th output of the last batch.

        A token that is kept to a grammar or a schema may take long: the `pool` chooses it.

        Raises
        ------
        ScopeError
            If the logits are not finite.
        """
        context, sampler = self.cache.context, self._sampler
        if sampler.constrained or self.request.logprobs is not None:
            self._logits = context.logits(i)
        if sampler.constrained:
            self.choice = pool.submit(sampler.choose, self._logits)
        else:
            self.token = sampler.sample(context, i)

    def say(self) -> Event:
        """Tell the token that was chosen; waits for it.

        Raises
        ------
        ScopeError
            If the grammar or schema allows no token.
        """
        if self.choice is not None:
            self.token = self.choice.result()
            self.choice = None
        token = self.token
        assert token is not None
        self._output.append(token)
        step = next(self._written)
        self.done = step.finish_reason is not None
        assert self._meter is not None
        self._meter.tick(time.perf_counter() - self._started)
        n = self.request.logprobs
        likely = () if n is None else alternatives(self.model, self._logits, token, n)
        stats = self._meter.stats(self.cache)
        response = Response(step.text, token, step.finish_reason, stats, step.no_text)
        return Event(self.key, response, logprobs=likely)

    def close(self) -> None:
        """Free the sampler, after a choice that is being made."""
        if self.choice is None:
            self._sampler.close()
        else:
            self.choice.add_done_callback(lambda _: self._sampler.close())

    def _last(self) -> int | None:
        return self.token
