"""Generation in three layers: tokens, text with statistics, the finished text.

`generate_step` yields token ids and knows nothing of text. `Generation` adds text, stop strings
and statistics, one `Response` per step. `generate` collects them.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from inspect import GEN_RUNNING, getgeneratorstate
from typing import Any, NamedTuple

from scope_cpp.engine import attention, capability
from scope_cpp.engine.arguments import checked
from scope_cpp.engine.cache.bounded import BoundedCache
from scope_cpp.engine.context import Context
from scope_cpp.engine.length import longest_output, past_training, training_ends
from scope_cpp.engine.model import Model
from scope_cpp.engine.prompts import Prompt, read_prompt
from scope_cpp.engine.sampling import Sampler, SamplingParams, recommended
from scope_cpp.engine.settings import Settings
from scope_cpp.engine.silence import ENDLESS, never_ends, why_no_text
from scope_cpp.engine.sizes import resolve
from scope_cpp.engine.text import TextStream
from scope_cpp.errors import ScopeError, TooLong, Warn
from scope_cpp.native.lifetime import Closable
from scope_cpp.wording import worded


@dataclass(frozen=True)
class Stats:
    """Statistics of one sequence so far.

    Attributes
    ----------
    n_prompt, n_generated
        Tokens of the prompt, and tokens written.
    n_shared
        Tokens of the prompt that were there already and not read: another sequence's, see
        `scope_cpp.engine.parallel`.
    n_again
        Tokens before the prompt, or of one that was there, that were read again to go back in a
        conversation.
    cells_used, cells_peak
        Cells now and at most.
    dead_rows
        Rows of the cells in use that attention does not see: the mean over layers, 0 unless a
        policy gives layers different budgets.
    cells_capacity
        Cells that the sequence may use: the budget.
    cells_allocated, kv_bytes
        Cells that llama.cpp allocated (it rounds up to 256), and the bytes of their K and V.
    fixed_bytes
        Sliding windows and recurrent states beside these cells, and copies of them to go back to.
    compute_bytes
        llama.cpp's intermediate results, and the logits.
    query_bytes
        Queries that are recorded while tokens are decoded, and those of the prompt that weigh new
        cells.
    selection_bytes
        Room for choosing what stays: attention, moves, positions, scores and copies of these.
    evicted, selections
        Cells freed; how often a policy chose.
    attention_loss
        Mean share of the attention that fell on rows given up, when they were.
    prompt_seconds, generation_seconds
        Time to read the prompt and to write the output.
    score_seconds, select_seconds, move_seconds
        What of it went into native scores, the policy and native moves.
    """

    n_prompt: int = 0
    n_generated: int = 0
    n_shared: int = 0
    n_again: int = 0
    cells_used: int = 0
    cells_peak: int = 0
    dead_rows: float = 0.0
    cells_capacity: int = 0
    cells_allocated: int = 0
    kv_bytes: int = 0
    fixed_bytes: int = 0
    compute_bytes: int = 0
    selection_bytes: int = 0
    evicted: int = 0
    selections: int = 0
    attention_loss: float = 0.0
    query_bytes: int = 0
    prompt_seconds: float = 0.0
    generation_seconds: float = 0.0
    score_seconds: float = 0.0
    select_seconds: float = 0.0
    move_seconds: float = 0.0

    @property
    def memory_bytes(self) -> int:
        """Bytes of all that belongs to the context: everything but the weights and the texts."""
        cache = self.kv_bytes + self.fixed_bytes
        return cache + self.compute_bytes + self.query_bytes + self.selection_bytes

    @property
    def rows_used(self) -> float:
        """Rows that a head attends to now, the mean over layers: the cells less `dead_rows`."""
        return self.cells_used - self.dead_rows

    @property
    def prompt_per_second(self) -> float:
        """Tokens per second that were read, some of them again; 0 before the prompt is read."""
        n_read = self.n_prompt - self.n_shared + self.n_again
        return n_read / self.prompt_seconds if self.prompt_seconds else 0.0

    @property
    def generated_per_second(self) -> float:
        """Generated tokens per second; 0 before the first."""
        return self.n_generated / self.generation_seconds if self.generation_seconds else 0.0


@dataclass(frozen=True)
class Response:
    """One step of a generation.

    Attributes
    ----------
    text
        New text, possibly empty: characters and stop strings may straddle tokens.
    token
        The token of this step; ``None`` in the last response where no token came with it.
    finish_reason
        ``None``, or in the last response ``"stop"`` (end of generation or stop string) or
        ``"length"``; of a conversation's answer also ``"interrupted"``.
    stats
        Statistics up to this step.
    no_text
        In the last response of an output that shows nothing, or only white space: why.
    """

    text: str
    token: int | None
    finish_reason: str | None
    stats: Stats
    no_text: str | None = None

    def __str__(self) -> str:
        """Return the new text, so that a response can be printed."""
        return self.text


def generate_step(
    cache: BoundedCache, sampler: Sampler, tokens: Sequence[int], is_end: Callable[[int], bool]
) -> Iterator[int]:
    """Read `tokens`, then yield one token after the other, until `is_end` accepts one.

    The last token is yielded too. A token is decoded only when the next one is asked for, so that
    a caller that stops leaves no cell behind for what it did not want.
    """
    cache.prefill(tokens)
    sampler.accept_prompt(tokens)
    yield from sample_each(cache, sampler, is_end)


def sample_each(
    cache: BoundedCache, sampler: Sampler, is_end: Callable[[int], bool]
) -> Iterator[int]:
    """Go on after a prompt that the cache and the sampler have seen; see `generate_step`."""
    while True:
        token = sampler.sample(cache.context)
        yield token
        if is_end(token):
            return
        cache.decode(token)


class Written(NamedTuple):
    """One step of `write`: see `Response`."""

    text: str
    token: int
    finish_reason: str | None
    no_text: str | None


def write(
    model: Model, tokens: Iterator[int], text: TextStream, n_predict: int | None
) -> Generator[Written, None, None]:
    """Turn tokens into text, up to the end; only the last step has a finish reason."""
    blank = shown = False
    for n, token in enumerate(tokens, start=1):
        new, reason = _next_text(model, token, text, n == n_predict)
        blank, shown = blank or bool(new), shown or bool(new.strip())
        if reason is not None:
            why = None if shown else why_no_text(model, token, n, text.matched, blank)
            yield Written(new, token, reason, why)
            return
        yield Written(new, token, None, None)


def _next_text(model: Model, token: int, text: TextStream, last: bool) -> tuple[str, str | None]:
    """Return what can be shown after one more token, and why the output ends, if it does."""
    if model.is_eog(token):
        return text.finish(), "stop"
    new = text.push(model.token_to_piece(token))
    if text.matched is not None:
        return new, "stop"
    return (new + text.finish(), "length") if last else (new, None)


def counted(cache: BoundedCache) -> dict[str, Any]:
    """What `Stats` takes from a cache: its counters, and what its context takes."""
    stats, found = cache.stats, cache.footprint
    return vars(stats) | {
        "kv_bytes": found.kv,
        "fixed_bytes": found.fixed + cache.marks.n_bytes,
        "compute_bytes": found.compute,
        "query_bytes": found.queries + stats.query_bytes,
        "selection_bytes": found.selection,
    }


class Meter:
    """Statistics of one sequence, token by token, and the line about the trained length."""

    def __init__(
        self,
        model: Model,
        context: Context,
        n_prompt: int,
        capacity: int,
        warn: Warn,
        n_shared: int = 0,
    ) -> None:
        self._model, self._warn = model, warn
        self._stats = Stats(
            n_prompt=n_prompt,
            n_shared=n_shared,
            cells_capacity=capacity,
            cells_allocated=context.n_cells,
        )

    def tick(self, seconds: float) -> None:
        """Account for one more token; the first ends the reading of the prompt."""
        stats = self._stats
        n = stats.n_generated + 1
        prompt = seconds if n == 1 else stats.prompt_seconds
        self._stats = replace(
            stats, n_generated=n, prompt_seconds=prompt, generation_seconds=seconds - prompt
        )
        if n == max(1, training_ends(self._model) - stats.n_prompt):
            self._warn(past_training(self._model))

    def stats(self, cache: BoundedCache) -> Stats:
        """Statistics so far."""
        return replace(self._stats, **counted(cache))


class Generation(Closable):
    """One bounded generation: iterate over it for responses; a context manager.

    >>> for response in stream_generate(model, [{"role": "user", "content": "Hello"}]):
    ...     print(response, end="", flush=True)

    What it holds is freed when it is closed, when its model is, or when nothing refers to it any
    more. A loop that was left can be taken up by another one.

    Parameters
    ----------
    model
    prompt
        Messages of a chat, such as ``[{"role": "user", "content": "Hello"}]``, which the model's
        chat template turns into a prompt; or a text, which is continued as it is (BOS goes before
        it where the model wants that); or token ids.
    n_predict
        Longest output in tokens, at least 1; ``None`` for no limit.
    settings
        The budget of the cache, the policy, and how llama.cpp computes; see `Settings`.
    sampling
        See `SamplingParams`; left out, it is what the model's file recommends.
    template
        Chat template for messages, in place of the model's own: Jinja text, or ``"plain"``.
    stop
        Strings that end the output and are not part of it.
    parse_special
        Whether the text of control tokens in `prompt`, such as ``<|im_start|>``, is read as those
        tokens, as llama.cpp's completion does.
    warn
        Called with one line for each thing the user should know; default `warnings.warn`.

    Raises
    ------
    UsageError
        If the prompt is empty, messages have no template, or a setting is wrong.
    ScopeError
        If the model's cache can't be bounded although a policy or a budget asks for it, before
        anything is allocated. Without either it runs with the full cache, and `warn` says so.
    """

    @checked("prompt")
    def __init__(
        self,
        model: Model,
        prompt: Prompt,
        *,
        n_predict: int | None = None,
        settings: Settings | None = None,
        sampling: SamplingParams | None = None,
        template: str | None = None,
        stop: Sequence[str] = (),
        parse_special: bool = True,
        warn: Warn = warnings.warn,
    ) -> None:
        super().__init__("the generation", "make another one", model)
        warn = worded(warn)
        settings, sampling = settings or Settings(), sampling or recommended(model, warn)
        self.model, self.settings, self.warn = model, settings, warn
        self.tokens, ends = read_prompt(model, prompt, template, parse_special)
        self.n_predict = longest_output(settings, model, len(self.tokens), n_predict)
        try:
            self.sizes = resolve(settings, model, len(self.tokens), self.n_predict)
        except TooLong:  # a larger budget is no remedy for what can't be bounded
            if settings.policy != "full":
                kinds = settings.type_k, settings.type_v, settings.flash_attn
                capability.require(model.path, model.arch, *kinds)
            raise
        settings = attention.resolve(settings, model, bounded=self.sizes.bounded)
        if self.sizes.bounded:
            kinds = settings.type_k, settings.type_v, settings.flash_attn
            reason = capability.refusal(model.path, *kinds)
            if reason:
                settings = capability.fall_back(self.settings, model, reason, warn)
                self.sizes = resolve(settings, model, len(self.tokens), self.n_predict)
                settings = attention.resolve(settings, model, bounded=False)
        for line in self.sizes.warnings:
            warn(line)
        if never_ends(sampling, self.n_predict):
            warn(ENDLESS)
        text = TextStream((*ends, *stop))
        self._finished, self._failure = False, ""
        self.sampler = Sampler(model, sampling)
        self.adopt(self.sampler)
        self.context = Context(model, settings.context_params(self.sizes.capacity))
        self.adopt(self.context)
        if not self.sizes.bounded:
            capability.tell_full(self.context, settings, warn)
        self.cache = BoundedCache(
            self.context,
            self.sizes.capacity,
            self.sizes.decode,
            self.sizes.prefill,
            whole_cells=settings.granularity == "cell",
            n_predict=self.n_predict,
            bounded=self.sizes.bounded,
        )
        self._meter = Meter(model, self.context, len(self.tokens), self.sizes.capacity, warn)
        steps = generate_step(self.cache, self.sampler, self.tokens, model.is_eog)
        written = write(model, steps, text, self.n_predict)
        self._responses = _respond(written, self._meter, self.cache)

    @property
    def stats(self) -> Stats:
        """Statistics so far."""
        return self._meter.stats(self.cache)

    def __iter__(self) -> Iterator[Response]:
        """Generate; the last response has a finish reason. A second loop goes on with the first."""
        return self

    def __next__(self) -> Response:
        """Decode one more token.

        Raises
        ------
        StopIteration
            After the last response.
        ScopeError
            If this or the model is closed, or an error ended the generation before.
        """
        if self._finished:
            raise StopIteration
        self.check_open()
        if self._failure:
            raise ScopeError(f"the generation ended with {self._failure}: make another one")
        check_idle(self._responses)
        try:
            response = next(self._responses)
        except BaseException as err:
            self._failure = " ".join(f"{type(err).__name__}: {err}".split()).rstrip(":")
            raise
        self._finished = response.finish_reason is not None
        return response


def _respond(
    written: Iterator[Written], meter: Meter, cache: BoundedCache
) -> Generator[Response, None, None]:
    """Account for each step. Knows nothing of the generation, which is freed when it is dropped."""
    started = time.perf_counter()
    for step in written:
        meter.tick(time.perf_counter() - started)
        stats = meter.stats(cache)
        yield Response(step.text, step.token, step.finish_reason, stats, step.no_text)


def check_idle(steps: Generator[Any, None, None]) -> None:
    """Raise a ScopeError if another thread waits for the next of these already."""
    if getgeneratorstate(steps) == GEN_RUNNING:
        raise ScopeError("another thread is iterating over this: iterate in one thread only")


# The name that other libraries have for it: a call to iterate over
stream_generate = Generation


def generate(
    model: Model,
    prompt: Prompt,
    *,
    n_predict: int | None = None,
    settings: Settings | None = None,
    sampling: SamplingParams | None = None,
    template: str | None = None,
    stop: Sequence[str] = (),
    parse_special: bool = True,
    warn: Warn = warnings.warn,
) -> tuple[str, Response]:
    """Write to the end.

    >>> text, last = generate(model, [{"role": "user", "content": "Hello"}])

    Parameters and errors are those of `Generation`.

    Returns
    -------
    text, last
        The whole text, and the last response with reason and statistics.
    """
    with Generation(
        model,
        prompt,
        n_predict=n_predict,
        settings=settings,
        sampling=sampling,
        template=template,
        stop=stop,
        parse_special=parse_special,
        warn=warn,
    ) as generation:
        responses = list(generation)
    return "".join(response.text for response in responses), responses[-1]
