"""One item under one row: read the prompt, decode what is forced, generate."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
from numpy.typing import NDArray

from scope_cpp.engine.chat import format_chat
from scope_cpp.engine.generate import Generation, Stats, sample_each, write
from scope_cpp.engine.model import Model
from scope_cpp.engine.sampling import SamplingParams
from scope_cpp.engine.text import TextStream
from scope_cpp.errors import ScopeError, UsageError, Warn
from scope_cpp.eval.loops import WINDOW, find_loop
from scope_cpp.eval.rows import Row
from scope_cpp.eval.task import Item, Output
from scope_cpp.native import kv_evict

BOTH = "prompt and output are"

Counts = dict[str, float]
See = Callable[[NDArray[np.float32], int], None]
"""Takes the logits before a token of the output, and the token."""


class Stop:
    """How much a user wants a run to end.

    Attributes
    ----------
    asked
        0: not. 1: after the samples that are running. 2: at the next token.
    """

    def __init__(self) -> None:
        self.asked = 0


@dataclass(frozen=True)
class Watch:
    """Whoever waits for a sample: is told of each token, and may not want it any more.

    Attributes
    ----------
    stop
    tell
        Called with the tokens of the output so far and those that it has at most.
    """

    stop: Stop
    tell: Callable[[int, int], None] = lambda n_tokens, n_most: None

    def tick(self, n_tokens: int, n_most: int) -> None:
        """Take note of a token; raise `Aborted` if the sample is not wanted any more."""
        self.tell(n_tokens, n_most)
        if self.stop.asked > 1:
            raise Aborted


class Aborted(Exception):
    """A sample was given up because the user wants that."""


@dataclass(frozen=True)
class Reading:
    """What the model reads of an item.

    Attributes
    ----------
    prompt, forced
        Tokens.
    stop
        Strings that end the output.
    """

    prompt: tuple[int, ...]
    forced: tuple[int, ...]
    stop: tuple[str, ...]


def read_item(model: Model, item: Item, template: bool | str) -> Reading:
    """Return an item's tokens, its prompt through a chat template if wanted.

    Parameters
    ----------
    model, item
    template
        Whether the model's own template is used, or another one, see `format_chat`.

    Raises
    ------
    UsageError
        If the vocabulary can't express it, the model has no template, or it asks for nothing.
    """
    if item.prompt_tokens:
        return _checked(Reading(item.prompt_tokens, item.forced_tokens, item.stop))
    text, stops = item.prompt, list[str]()
    if template:
        messages = item.messages or ({"role": "user", "content": item.prompt},)
        text, stops = format_chat(model, messages, template if isinstance(template, str) else None)
    if not text:
        raise UsageError("the prompt is empty")
    tokens = model.tokenize(text, add_special=True, parse_special=bool(template))
    forced: Sequence[int] = item.forced_tokens
    if item.forced and not forced:
        forced = _continuation(model, text, item.forced, tokens, bool(template))
    return _checked(Reading(tuple(tokens), tuple(forced), (*stops, *item.stop)))


def _checked(reading: Reading) -> Reading:
    if not reading.prompt:
        raise UsageError("the prompt has no token")
    return reading


def _continuation(
    model: Model, text: str, forced: str, tokens: Sequence[int], template: bool
) -> Sequence[int]:
    """Tokens of `forced` after the prompt; on their own where the two would merge."""
    if not template:
        both = model.tokenize(text + forced, add_special=True, parse_special=False)
        if both[: len(tokens)] == list(tokens):
            return both[len(tokens) :]
    return model.tokenize(forced, add_special=False, parse_special=False)


def write_output(
    model: Model,
    reading: Reading,
    n_predict: int,
    row: Row,
    sampling: SamplingParams,
    watch: Watch,
    warn: Warn,
    see: See | None = None,
) -> tuple[Output, Counts, int | None]:
    """Return the output, its statistics, and the period of the loop it ends in.

    With `see` every token of the output is shown to it, in place of the likelihoods of those that
    are forced.

    Raises
    ------
    ScopeError
        If prompt or output do not fit into the row's budget, or more cells than that were used.
    Aborted
        If `watch` says so.
    """
    n_prompt, n_forced = len(reading.prompt), len(reading.forced)
    longest = n_forced + n_predict
    settings = row.settings_for(n_prompt, longest)
    read = n_prompt + n_forced
    if read > model.n_ctx_train:  # before hours are spent on it
        warn(_too_long(model, "a prompt is" if n_prompt > model.n_ctx_train else BOTH))
    with Generation(
        model,
        reading.prompt,
        n_predict=longest,
        settings=settings,
        sampling=sampling,
        warn=lambda line: warn(f"{row.name}: {line}"),
    ) as generation:
        budget = generation.sizes.capacity
        if row.beta is not None and not row.is_full and budget > n_prompt + row.beside(longest):
            raise ScopeError(f"{budget} cells for a budget of {n_prompt + row.beside(longest)}")
        clock, nll = _Clock(generation, watch, longest), list[float]()
        clock.read(reading, see or _likelihoods(nll))
        text, kept, finish = "", [], "forced"
        if n_predict:
            steps = sample_each(generation.cache, generation.sampler, model.is_eog)
            for step in write(model, steps, TextStream(reading.stop), n_predict):
                if see is not None:
                    see(generation.context.logits(), step.token)
                clock.tick()
                text += step.text
                kept.append(step.token)
                finish = step.finish_reason or finish
        stats = clock.stats()
    if n_prompt + stats.n_generated > model.n_ctx_train >= read:
        warn(_too_long(model, BOTH))
    ended = kept[:-1] if kept and model.is_eog(kept[-1]) else kept
    loop = find_loop(ended[-WINDOW:]) if n_predict else None
    counts = {**asdict(stats), "cells_seen": clock.seen, "n_forced": n_forced}
    return Output(text, len(kept), finish, tuple(nll)), counts, loop


def _likelihoods(nll: list[float]) -> See:
    """Return what notes the negative log-likelihood of each token, in nats."""

    def see(logits: NDArray[np.float32], token: int) -> None:
        wide = logits.astype(np.float64)
        nll.append(float(np.logaddexp.reduce(wide) - wide[token]))

    return see


def _too_long(model: Model, what: str) -> str:
    return (
        f"{what} longer than the {model.n_ctx_train} positions that {model.path.name} was "
        "trained on: what it writes there means little; give shorter samples or another model"
    )


class _Clock:
    """Times a generation, and asks llama.cpp after each token how many cells are used."""

    def __init__(self, generation: Generation, watch: Watch, longest: int) -> None:
        self._generation, self._watch, self._longest = generation, watch, longest
        self._started = time.perf_counter()
        self._prompt_seconds = 0.0
        self._n = 0
        self.seen = 0

    def read(self, reading: Reading, see: See) -> None:
        """Read the prompt and what is forced, and show the tokens of that."""
        generation = self._generation
        self._watch.tick(0, self._longest)
        generation.cache.prefill(reading.prompt)
        self._prompt_seconds = time.perf_counter() - self._started
        self._count()
        for token in reading.forced:
            see(generation.context.logits(), token)
            generation.cache.decode(token)
            self.tick()
        generation.sampler.accept_prompt((*reading.prompt, *reading.forced))

    def tick(self) -> None:
        """Take note of a token."""
        self._n += 1
        self._count()
        self._watch.tick(self._n, self._longest)

    def _count(self) -> None:
        used, budget = (
            kv_evict.n_used(self._generation.context.ptr),
            self._generation.sizes.capacity,
        )
        self.seen = max(self.seen, used)
        if used > budget:
            raise ScopeError(f"llama.cpp counts {used} cells in use, the budget is {budget}")

    def stats(self) -> Stats:
        """Return the statistics so far."""
        seconds = time.perf_counter() - self._started - self._prompt_seconds
        return replace(
            self._generation.stats,
            n_generated=self._n,
            prompt_seconds=self._prompt_seconds,
            generation_seconds=seconds,
        )
