"""The answer of a conversation while it is written."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass

from scope_cpp.engine.cache.bounded import BoundedCache
from scope_cpp.engine.generate import Response, Stats, Written, check_idle, sample_each, write
from scope_cpp.engine.model import Model
from scope_cpp.engine.sampling import Sampler
from scope_cpp.engine.silence import INTERRUPTED
from scope_cpp.engine.text import TextStream
from scope_cpp.engine.turns import Clock, Turn


@dataclass(frozen=True)
class Prompt:
    """A prompt that was read: what an answer begins with.

    Attributes
    ----------
    model, cache, sampler
        What writes; the sampler is the answer's own.
    turn
        Takes note of what is written.
    stop
        Strings that end the answer.
    longest
        Its longest length in tokens.
    """

    model: Model
    cache: BoundedCache
    sampler: Sampler
    turn: Turn
    stop: tuple[str, ...]
    longest: int | None


@dataclass(frozen=True)
class Duties:
    """What an answer asks of its conversation.

    Attributes
    ----------
    read
        Read the prompt, and count it in the answer's clock.
    note
        Called after each token.
    keep
        End the answer: its text, and why it ends.
    take_back
        End it as if it had never been asked for.
    stats
        Statistics so far.
    check_open
        Raise a ScopeError if the conversation is closed.
    """

    read: Callable[[Clock], Prompt]
    note: Callable[[], None]
    keep: Callable[[str, str], None]
    take_back: Callable[[], None]
    stats: Callable[[], Stats]
    check_open: Callable[[], None]


class Answer:
    """An answer that is written while it is iterated over.

    The first step reads the prompt. If that fails or is interrupted, the conversation is as before;
    later, `close` keeps what was written. One that its conversation was closed before raises a
    ScopeError that says so.

    Attributes
    ----------
    text
        What was written so far.
    finish_reason
        As of the last `Response`; ``None`` before it.
    no_text
        Why the answer shows nothing, where it does; see `Response`.
    """

    def __init__(self, duties: Duties) -> None:
        self.text = ""
        self.no_text: str | None = None
        self.finish_reason: str | None = None
        self._duties = duties
        self._clock = Clock()
        self._sampler: Sampler | None = None
        self._stream = TextStream(())
        self._steps: Generator[Written, None, None] | None = None
        self._done = False
        self._started = 0.0

    def __iter__(self) -> Iterator[Response]:
        return self

    def __next__(self) -> Response:
        if self._done:
            if self.finish_reason is None:
                self._duties.check_open()
            raise StopIteration
        if self._steps is None:
            self._begin()
        assert self._steps is not None
        check_idle(self._steps)
        try:
            step = next(self._steps)
        except BaseException:
            if self._clock.n_generated == 0:
                self.abandon()
            raise
        self._count()
        self.text += step.text
        self.no_text = step.no_text
        if step.finish_reason is not None:
            self._finish(step.finish_reason)
        stats = self._duties.stats()
        return Response(step.text, step.token, step.finish_reason, stats, step.no_text)

    def close(self) -> None:
        """Stop here and keep what was written; further calls do nothing."""
        if self._done:
            return
        if self._clock.n_generated == 0:
            self.abandon()
            return
        self.text += self._stream.finish()
        if not self.text.strip():
            self.no_text = INTERRUPTED
        self._finish("interrupted")

    def abandon(self) -> None:
        """Stop here and take the turn back."""
        if not self._done:
            self._release()
            self.text = ""
            self._duties.take_back()

    def _begin(self) -> None:
        """Read the prompt."""
        self._started = time.perf_counter()
        try:
            prompt = self._duties.read(self._clock)
        except BaseException:
            self.abandon()
            raise
        self._sampler = prompt.sampler
        self._stream = TextStream(prompt.stop)
        self._steps = write(prompt.model, _noted(prompt), self._stream, prompt.longest)

    def _count(self) -> None:
        clock, seconds = self._clock, time.perf_counter() - self._started
        clock.n_generated += 1
        if clock.n_generated == 1:
            clock.prompt_seconds = seconds
        clock.generation_seconds = seconds - clock.prompt_seconds
        self._duties.note()

    def _finish(self, reason: str) -> None:
        self.finish_reason = reason
        self._release()
        self._duties.keep(self.text, reason)

    def _release(self) -> None:
        self._done = True
        if self._sampler is not None:
            self._sampler.close()


def _noted(prompt: Prompt) -> Iterator[int]:
    """Sample, and take note of each token."""
    cache, turn, is_eog = prompt.cache, prompt.turn, prompt.model.is_eog
    for token in sample_each(cache, prompt.sampler, is_eog):
        turn.n_decoded = cache.n_past - turn.stop
        if not is_eog(token):
            turn.answer.append(token)
        yield token
