"""From rows to what the engine takes."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from scope_cpp.batch.asked import DEFAULT_SEED
from scope_cpp.batch.rows import Row
from scope_cpp.engine.budget import parse_budget
from scope_cpp.engine.chat import format_chat
from scope_cpp.engine.model import Model
from scope_cpp.engine.parallel import Request
from scope_cpp.engine.parallel.options import NO_LIMIT, Options
from scope_cpp.engine.sampling import RANDOM_SEED, SamplingParams, model_defaults
from scope_cpp.engine.settings import Settings
from scope_cpp.engine.silence import never_ends
from scope_cpp.engine.transcript import problem
from scope_cpp.errors import ScopeError, UsageError, Warn, ignore

_RANDOM = (-1, RANDOM_SEED)


@dataclass(frozen=True)
class Defaults:
    """What rows get that set nothing themselves; plain values.

    Attributes
    ----------
    settings
        The context's dials too, which rows can't change.
    sampling
        What the user set, by the names of `SamplingParams`; the model's own defaults lie below.
    seed
        Of the run; see `row_seed`.
    n_predict
        Longest output; ``None``: to the end of what the model was trained on. `NO_LIMIT`.
    stop
        Strings that end an output.
    chat
        Prompts are users' turns for the chat template; messages always are.
    parse_special
        Control tokens in prompts that are continued are read as such.
    system_prompt
        Text of a system message before chats that have none.
    template
        Instead of the model's own, see `format_chat`.
    """

    settings: Settings = field(default_factory=Settings)
    sampling: Mapping[str, Any] = field(default_factory=dict)
    seed: int = DEFAULT_SEED
    n_predict: int | None = None
    stop: tuple[str, ...] = ()
    chat: bool = False
    parse_special: bool = True
    system_prompt: str | None = None
    template: str | None = None


def row_seed(seed: int, key: str) -> int:
    """Seed of a row that sets none: of the run's and its id, whatever ran before it."""
    digest = hashlib.blake2b(f"{seed}/{key}".encode("utf-8", "surrogatepass"), digest_size=8)
    return int.from_bytes(digest.digest(), "big") % RANDOM_SEED


class Requests:
    """Makes requests of rows for one model.

    Parameters
    ----------
    model : Model
    defaults : Defaults
    warn
        Called with one line if the model's file recommends sampling values that can't be.

    Raises
    ------
    UsageError
        For sampling values out of range, or a budget that is none.
    """

    def __init__(self, model: Model, defaults: Defaults, warn: Warn = ignore) -> None:
        self.model, self.defaults = model, defaults
        self._sampling = {**model_defaults(model, warn), **defaults.sampling}
        SamplingParams(**self._sampling)
        _settings(defaults.settings, Options())

    def of(self, row: Row) -> Request:
        """Return the request of a row.

        Raises
        ------
        UsageError
            If it asks for what is unknown, out of range or can't be read by this model.
        """
        prompt, stops = self._prompt(row)
        settings = _settings(self.defaults.settings, row.options)
        n_predict, sampling = (
            self._longest(row.options, settings, len(prompt)),
            self._sampling_of(row),
        )
        own = self.defaults.stop if row.options.stop is None else row.options.stop
        if settings.ctx_size is None and never_ends(sampling, n_predict) and not own:
            raise UsageError(
                "nothing would end the output: it ignores the tokens that do, and has no length; "
                "give n_predict or ctx_size"
            )
        return Request(
            prompt,
            n_predict=n_predict,
            settings=settings,
            sampling=sampling,
            stop=(*stops, *own),
        )

    @property
    def template_problem(self) -> ScopeError | None:
        """The error by which no messages can be written with the chat template, if none can."""
        return problem(self.model, self.defaults.template)

    def is_chat(self, row: Row) -> bool:
        """Whether a row goes through the chat template."""
        return row.messages is not None or (
            self.defaults.chat and not isinstance(row.prompt, tuple)
        )

    def _prompt(self, row: Row) -> tuple[tuple[int, ...], Sequence[str]]:
        """Tokens, and strings that end the answer."""
        if isinstance(row.prompt, tuple):
            return self._tokens(row.prompt), ()
        messages, own = self._messages(row), row.options.parse_special
        if messages is not None:
            if own:
                raise UsageError(
                    "parse_special is for prompts: control tokens of a chat come from the template"
                )
            text, stops = format_chat(self.model, messages, self.defaults.template)
            parse_special = True
        else:
            text, stops = row.prompt or "", []
            parse_special = self.defaults.parse_special if own is None else own
        tokens = self.model.tokenize(text, parse_special=parse_special) if text else []
        if not tokens:
            raise UsageError("the prompt is empty: give a text")
        return tuple(tokens), stops

    def _messages(self, row: Row) -> Sequence[Mapping[str, Any]] | None:
        messages: Sequence[Mapping[str, Any]] | None = row.messages
        if messages is None:
            if not self.defaults.chat:
                return None
            messages = ({"role": "user", "content": row.prompt},)
        system = self.defaults.system_prompt
        if system is None or any(m.get("role") == "system" for m in messages):
            return messages
        return ({"role": "system", "content": system}, *messages)

    def _tokens(self, tokens: tuple[int, ...]) -> tuple[int, ...]:
        n_vocab = self.model.n_vocab
        wrong = next((token for token in tokens if not 0 <= token < n_vocab), None)
        if wrong is not None:
            raise UsageError(f"the prompt has token {wrong}: the vocabulary has 0 to {n_vocab - 1}")
        if not tokens:
            raise UsageError("the prompt is empty: give at least one token")
        return tokens

    def _longest(self, options: Options, settings: Settings, n_prompt: int) -> int | None:
        asked = self.defaults.n_predict if options.n_predict is None else options.n_predict
        if asked == NO_LIMIT or (asked is None and settings.ctx_size is not None):
            return None
        if asked is not None:
            return asked
        room = self.model.n_ctx_train - n_prompt
        if room < 1:
            raise UsageError(
                f"the prompt has {n_prompt} tokens, the model was trained on "
                f"{self.model.n_ctx_train}: give the longest output (-n) to go beyond that"
            )
        return room

    def _sampling_of(self, row: Row) -> SamplingParams:
        values = {**self._sampling, **row.options.sampling}
        for one, other in (("grammar", "json_schema"), ("json_schema", "grammar")):
            if one in row.options.sampling and other not in row.options.sampling:
                values[other] = None
        if row.options.sampling.get("seed", -1) in _RANDOM:
            values["seed"] = row_seed(self.defaults.seed, row.key)
        return SamplingParams(**values)


def _settings(base: Settings, options: Options) -> Settings:
    """The command's settings with the row's over them; results must not depend on the machine."""
    settings = options.over(base)
    if parse_budget(settings.budget).kind == "auto":
        raise UsageError(
            "budget auto depends on the memory that is free just then, and so would the results: "
            "give cells (512, 2k), a share (50%) or memory (64MiB)"
        )
    return settings
