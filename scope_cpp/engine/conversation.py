"""A conversation within a hard budget: prompts stay exact, every answer has a pool of its own.

For the policy all that was there before an answer is its prompt; when the answer ends, what is
left of it is frozen. The messages and the user's dials are here; reading, and going back (`undo`,
`edit`, `regenerate`, and a template that drops what an answer thought), is in `cached_turns`.

When a turn has no room (its prompt, and the pool of its answer), cells give way in this order:

1. finished answers, the oldest first, in each the lowest accumulated attention first;
2. with a prefill policy that drops cells, rows of earlier prompts, chosen by it; never those of the
   system prompt;
3. nothing else: a `ScopeError` says what would be needed.

A policy that ranks all rows (`DecodePolicy.ranks_prompt`) makes room by its own choice instead,
among all but those of the system prompt, and of messages if it keeps them
(`DecodePolicy.keeps_messages`); the policy ``full`` gives up nothing.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scope_cpp.engine import attention, capability, room, transcript
from scope_cpp.engine.answer import Answer, Duties, Prompt
from scope_cpp.engine.arguments import checked
from scope_cpp.engine.cache.bounded import BoundedCache
from scope_cpp.engine.cached_turns import CachedTurns, Watch
from scope_cpp.engine.context import Context
from scope_cpp.engine.generate import Stats, Warn, counted
from scope_cpp.engine.held_turns import evicts
from scope_cpp.engine.interrupts import whole_step
from scope_cpp.engine.length import past_training, training_ends, why_full
from scope_cpp.engine.model import Model
from scope_cpp.engine.pools import Pool, find_kept, find_pools
from scope_cpp.engine.rendering import Rendering
from scope_cpp.engine.sampling import Sampler, SamplingParams, answer_seed, draw_seed, recommended
from scope_cpp.engine.settings import Settings
from scope_cpp.engine.silence import ENDLESS, never_ends
from scope_cpp.engine.sizes import conversation_cells, conversation_policies
from scope_cpp.engine.text import TextStream
from scope_cpp.engine.turns import Account, Clock, Progress
from scope_cpp.errors import UsageError
from scope_cpp.native.lifetime import Closable
from scope_cpp.near import valid_are
from scope_cpp.policies import DecodePolicy
from scope_cpp.wording import worded

# Fields of Settings that may change while a conversation is held
CHANGEABLE = ("policy", "prefill", "granularity", "options")


class Conversation(Closable):
    """A conversation with one model; a context manager.

    Parameters
    ----------
    model
        Closing it closes the conversation.
    settings
        The budget is that of the whole conversation, see `conversation_cells`; ``ctx_size`` is its
        longest length in tokens.
    sampling
        Left out, it is what the model's file recommends. A seed is drawn once; every answer has a
        seed of its own, made from it.
    system
        Text of the system message.
    template
        Chat template (Jinja) in place of the model's own.
    n_predict
        Longest answer in tokens; ``None`` for no limit.
    stop
        Strings that end an answer and are not part of it.
    warn
        Called with one line for each thing the user should know.

    Raises
    ------
    UsageError
        If a setting is wrong.
    ScopeError
        If a policy or a budget asks for what the model's cache can't do, or the system prompt has
        no room.

    Attributes
    ----------
    cached
        The cells, and the turns that they hold.
    """

    @checked()
    def __init__(
        self,
        model: Model,
        *,
        settings: Settings | None = None,
        sampling: SamplingParams | None = None,
        system: str | None = None,
        template: str | None = None,
        n_predict: int | None = None,
        stop: Sequence[str] = (),
        warn: Warn = warnings.warn,
    ) -> None:
        self._open: Answer | None = None
        super().__init__("the conversation", "open another one", model)
        warn = worded(warn)
        settings, sampling = settings or Settings(), sampling or recommended(model, warn)
        _check_longest(n_predict)
        self.model, self.warn = model, warn
        self.sampling = replace(sampling, seed=draw_seed(sampling.seed))
        self.template, self.stop = template, tuple(stop)
        TextStream(self.stop)
        self._messages = _system_message(system)
        self._attempts: list[int] = []
        self._accounts: list[Account | None] = []
        self._clock: Clock | None = None  # of the answer that is being written
        self._warned_length = False
        settings = _runnable(settings, model, warn)
        capacity = conversation_cells(settings, model)
        decode, prefill = conversation_policies(settings, capacity, n_predict)
        if transcript.is_plain(model, template):
            warn(transcript.PLAIN_WARNING)
        limited = decode.name == "full" or settings.ctx_size is not None
        if never_ends(sampling, n_predict) and not limited:
            warn(ENDLESS)
        self._check_opening(self._messages, capacity, decode, n_predict)
        settings = attention.resolve(settings, model, bounded=evicts(decode, prefill))
        for line in decode.warnings():
            warn(line)
        self.cached = CachedTurns(model, settings, capacity, decode, prefill, n_predict)
        self.adopt(self.cached)

    def _release(self) -> None:
        if self._open is not None:
            self._open.abandon()

    @property
    def settings(self) -> Settings:
        """Settings from the next answer on; see `set_policy` and `set_budget`."""
        return self.cached.settings

    @property
    def context(self) -> Context:
        """The context; another one after `set_budget` and `load`."""
        return self.cached.context

    @property
    def cache(self) -> BoundedCache:
        """The cache; another one after `set_budget` and `load`."""
        return self.cached.cache

    @property
    def n_predict(self) -> int | None:
        """Longest answer in tokens; ``None`` for no limit."""
        return self.cached.n_predict

    @n_predict.setter
    @checked()
    def n_predict(self, n_predict: int | None) -> None:
        """Let answers from the next one on have at most so many tokens, at least 1."""
        _check_longest(n_predict)
        self.cached.n_predict = n_predict

    @property
    def watch(self) -> Watch:
        """Called while tokens are read: how many are done, of how many, and whether again."""
        return self.cached.watch

    @watch.setter
    def watch(self, watch: Watch) -> None:
        """Have it called from now on, after `load` too."""
        self.cached.watch = watch

    # -- talking --------------------------------------------------------------------------

    @property
    def messages(self) -> list[dict[str, str]]:
        """The messages so far, the system's first: a copy."""
        return [dict(message) for message in self._messages]

    @checked()
    def ask(self, text: str) -> Answer:
        """Add a user message; iterate over the answer."""
        self._end_answer()
        before = self.messages
        self._messages.append({"role": "user", "content": text})
        return self._begin(before, 0)

    @checked()
    def say(self, text: str) -> str:
        """Add a user message; return the whole answer. As `ask`, for those who don't stream."""
        return "".join(response.text for response in self.ask(text))

    def regenerate(self) -> Answer:
        """Write the last answer anew: another draw, or the same where nothing is drawn.

        Raises
        ------
        UsageError
            If there is no answer.
        """
        self._end_answer()
        turn = self._last_turn("no answer that could be written anew: send a message first")
        before = self.messages
        del self._messages[-1]
        return self._begin(before, self._attempts[turn] + 1)

    @checked()
    def edit(self, text: str) -> Answer:
        """Replace the last user message and write its answer anew.

        Raises
        ------
        UsageError
            If there is no user message.
        """
        self._end_answer()
        turn = self._last_turn("no message that could be changed: send one first")
        before = self.messages
        self._messages[-2:] = [{"role": "user", "content": text}]
        return self._begin(before, 0, forget=turn)

    def undo(self) -> str:
        """Take back the last user message and its answer; return its text.

        Where cells before them have given way since, the turns before are read again. If that is
        interrupted the message is taken back all the same, and the next answer begins with it.

        Raises
        ------
        UsageError
            If there is none.
        """
        self._end_answer()
        turn = self._last_turn("no message that could be taken back: send one first")
        text = self._messages[-2]["content"]
        with whole_step():
            del self._messages[-2:]
            del self._attempts[turn:], self._accounts[turn:]
        self.cached.forget_message(turn)
        return text

    def clear(self) -> None:
        """Forget all messages but the system's."""
        self._end_answer()
        self._messages = [m for m in self._messages if m["role"] == "system"]
        self._forget_all()

    @checked()
    def set_system(self, text: str | None) -> None:
        """Set the system message, ``None`` for none; all other messages are forgotten.

        Raises
        ------
        ScopeError
            If it has no room; nothing is changed.
        """
        self._end_answer()
        messages = _system_message(text)
        cache = self.cache
        self._check_opening(messages, cache.capacity, cache.decode_policy, self.n_predict)
        self._messages = messages
        self._forget_all()

    @checked()
    def set_sampling(self, params: SamplingParams) -> None:
        """Sample otherwise from the next answer on; a seed of -1 draws one."""
        self._end_answer()
        Sampler(self.model, params).close()
        self.sampling = replace(params, seed=draw_seed(params.seed))

    # -- settings -------------------------------------------------------------------------

    def set_policy(self, **changes: Any) -> None:
        """Change `CHANGEABLE` fields of the settings from the next answer on.

        Cells that are there stay. Scores that were kept by query head are summed up where single
        heads choose from now on, and divided equally the other way round.

        Raises
        ------
        UsageError, ScopeError
            For other fields or values, or if the cache can't be bounded; nothing is changed.
        """
        self._end_answer()
        for name in changes:
            if name not in CHANGEABLE:
                raise UsageError(
                    f"{name} can't change in a conversation{valid_are(name, CHANGEABLE)}"
                )
        settings = replace(self.settings, **changes)
        decode, prefill = conversation_policies(settings, self.cache.capacity, self.n_predict)
        if evicts(decode, prefill) and not self.cache.bounded:
            _require(self.model, settings)
        self._check_opening(self._messages, self.cache.capacity, decode, self.n_predict)
        self.cached.set_policies(settings, decode, prefill)
        for line in decode.warnings():
            self.warn(line)

    def set_budget(self, budget: str | int | None) -> None:
        """Move the cells into a context of another size; pools have their new sizes from now on.

        If the cells are more than the new budget, finished answers and then, with a prefill policy
        that drops cells, prompts give way first.

        Raises
        ------
        UsageError, ScopeError
            If it is no budget, too small for what may not give way, or has no memory; nothing is
            changed then.
        """
        self._end_answer()
        settings = replace(self.settings, budget=budget)
        capacity = conversation_cells(settings, self.model)
        decode, prefill = conversation_policies(settings, capacity, self.n_predict)
        self._check_opening(self._messages, capacity, decode, self.n_predict)
        room.check_shrink(self.cache, self.cached.turns, capacity, decode)
        self.cached.resize(settings, capacity, decode, prefill)
        for line in decode.warnings():
            self.warn(line)

    # -- what there is --------------------------------------------------------------------

    @property
    def stats(self) -> Stats:
        """Statistics of the answer that the conversation ends with, or that is being written.

        Tokens, evictions, selections, attention loss and times are those of its turn, and 0 where
        there is no `account` of it. Cells and bytes are those of the conversation as it is now.
        """
        now = counted(self.cache) | vars(self.account or Account())
        cells = self.cache.capacity, self.context.n_cells
        return Stats(cells_capacity=cells[0], cells_allocated=cells[1], **now)

    @property
    def why_full(self) -> str | None:
        """Why no answer can go on from here, ``None`` where it could."""
        cache = self.cache
        if cache.decode_policy.name == "full" and cache.stats.cells_used >= cache.capacity:
            return (
                f"the answer ends here: all {cache.capacity} cells of the budget are in use; "
                "give a larger --budget, or a --policy that bounds answers"
            )
        return why_full(self.settings, self.model, cache.n_past + 1)

    @property
    def account(self) -> Account | None:
        """What the answer took that the conversation ends with, or that is being written.

        ``None`` where there is none: nothing was asked yet, or all was taken back. The file of an
        older session does not tell it either.
        """
        if self._clock is not None:
            return Account.of(self._clock, self.cache.stats)
        return self._accounts[-1] if self._accounts else None

    def pools(self) -> list[Pool]:
        """Parts of the conversation in order, with the cells that each has."""
        return find_pools(self.cached)

    @checked()
    def kept(self, layer: int, head: int) -> NDArray[np.bool_]:
        """Whether each position has its row in a layer and KV head: bool (n_past,).

        Raises
        ------
        UsageError
            If there is no such layer or head.
        """
        return find_kept(self.cache, self.model, layer, head)

    # -- saving ---------------------------------------------------------------------------

    def progress(self) -> Progress:
        """How far the conversation is; with the cache's state all that it needs to go on."""
        return Progress(self.messages, self._attempts, self.cached.turns, self._accounts)

    @checked()
    def take(self, progress: Progress) -> None:
        """Go on from there, with the cache that belongs to it."""
        self._messages, self._attempts = progress.messages, progress.attempts
        self.cached.turns, self._accounts = progress.turns, progress.accounts

    @checked()
    def save(self, path: str | Path) -> None:
        """Write the conversation to a file; see `scope_cpp.engine.session`."""
        from scope_cpp.engine import session

        self._end_answer()
        self.cached.find_cells()
        session.save(self, path)

    @checked()
    def load(self, path: str | Path) -> None:
        """Take up a saved conversation in place of this one; refused, this one goes on."""
        from scope_cpp.engine import session

        self._end_answer()
        loaded, before = session.load(self, path), self.context
        loaded.warn, loaded.watch = self.warn, self.watch
        vars(self).update(vars(loaded))
        before.close()

    @classmethod
    @checked()
    def resume(
        cls,
        model: Model,
        path: str | Path,
        *,
        compute: Settings | None = None,
        warn: Warn = warnings.warn,
    ) -> Conversation:
        """Open a saved conversation with the settings that it was saved with.

        Only those that say how fast it is computed, not what, are taken from `compute`.
        """
        from scope_cpp.engine import session

        return session.resume(cls, model, path, compute, warn)

    # -- one turn -------------------------------------------------------------------------

    def _last_turn(self, missing: str) -> int:
        """Index of the last user message."""
        if not self._attempts:
            raise UsageError(f"there is {missing}")
        return len(self._attempts) - 1

    def _end_answer(self) -> None:
        self.check_open()
        if self._open is not None:
            self._open.close()

    def _begin(
        self, before: list[dict[str, str]], attempt: int, forget: int | None = None
    ) -> Answer:
        index = sum(message["role"] == "user" for message in self._messages) - 1
        attempts, accounts = list(self._attempts), list(self._accounts)
        self._attempts[index:], self._accounts[index:] = [attempt], [None]

        def take_back() -> None:
            self._open = self._clock = None
            self._messages, self._attempts, self._accounts = before, attempts, accounts

        self._open = Answer(
            Duties(
                read=lambda clock: self._read_prompt(clock, forget),
                note=self._check_length,
                keep=self._keep,
                take_back=take_back,
                stats=lambda: self.stats,
                check_open=self.check_open,
            )
        )
        return self._open

    def _read_prompt(self, clock: Clock, forget: int | None) -> Prompt:
        """Bring the cache to the end of the rendered messages; make the answer's sampler."""
        self._clock = clock
        n_before = self.cache.n_computed
        cached, index = self.cached, len(self._attempts) - 1
        seed = answer_seed(self.sampling.seed, index, self._attempts[index])
        sampler = Sampler(self.model, replace(self.sampling, seed=seed))
        try:
            if self.context.tainted:
                cached.start_over(index)
            if forget is not None:
                cached.forget_message(forget)
            cached.find_cells()
            rendering = Rendering.of(self.model, self.messages, self.template)
            if cached.last is not None and cached.last.index == index:
                # written anew: what was read stays, unless another policy has to make room for it
                same = cached.last.settings == self.settings
                cached.go_back(len(cached.turns) - 1, keep_prompt=same)
            at = cached.reconcile(rendering.text)
            if at == len(rendering.text) and cached.turns:
                cached.read_again()
            else:
                clock.n_prompt = cached.run(rendering, at)
            clock.n_again = self.cache.n_computed - n_before - clock.n_prompt
            sampler.accept_prompt(cached.tail(self.sampling.penalised))
            stop, longest = (*self.stop, *rendering.stops), cached.longest_answer()
        except BaseException:
            sampler.close()
            raise
        return Prompt(self.model, cached.cache, sampler, cached.turns[-1], stop, longest)

    def _check_opening(
        self,
        messages: list[dict[str, str]],
        capacity: int,
        decode: DecodePolicy,
        n_predict: int | None,
    ) -> None:
        """Refuse a system prompt without room for itself, a message and an answer."""
        openings = transcript.openings(self.model, messages, self.template)
        has_system = any(message["role"] == "system" for message in messages)
        room.check_opening(openings, has_system, capacity, decode, n_predict)

    def _check_length(self) -> None:
        """Warn once when the trained positions are used up, and the text goes on."""
        reached = self.cache.n_past + 1 >= training_ends(self.model)
        if reached and not self._warned_length and self.model.n_positions is None:
            self._warned_length = True
            self.warn(past_training(self.model))

    def _keep(self, text: str, reason: str) -> None:
        """End the answer that was written: keep it as a message, free a stop string's cells."""
        self._accounts[-1] = self.account
        self._open = self._clock = None
        self._messages.append({"role": "assistant", "content": text})
        self.cached.end_answer(text)
        why = self.why_full
        if reason == "length" and why is not None:
            self.warn(why)

    def _forget_all(self) -> None:
        self._attempts, self._accounts = [], []
        self.cached.forget_all()


def chat(
    model: Model,
    *,
    system: str | None = None,
    settings: Settings | None = None,
    sampling: SamplingParams | None = None,
    template: str | None = None,
    n_predict: int | None = None,
    stop: Sequence[str] = (),
    warn: Warn = warnings.warn,
) -> Conversation:
    """Begin a conversation within the budget of `settings`.

    >>> talk = chat(model, system="Be brief.")
    >>> print(talk.say("What is a KV cache?"))
    >>> for response in talk.ask("And what does it cost?"):
    ...     print(response, end="", flush=True)

    Parameters and errors are those of `Conversation`.
    """
    return Conversation(
        model,
        system=system,
        settings=settings,
        sampling=sampling,
        template=template,
        n_predict=n_predict,
        stop=stop,
        warn=warn,
    )


def _check_longest(n_predict: int | None) -> None:
    if n_predict is not None and n_predict < 1:
        raise UsageError(f"the longest answer is {n_predict} tokens: give at least 1")


def _system_message(text: str | None) -> list[dict[str, str]]:
    return [{"role": "system", "content": text}] if text else []


def _runnable(settings: Settings, model: Model, warn: Warn) -> Settings:
    """As they are, or with the full cache where the model's can't be bounded."""
    if not evicts(*settings.policies()):
        return settings
    resolved = attention.resolve(settings, model, bounded=True)
    kinds = resolved.type_k, resolved.type_v, resolved.flash_attn
    return capability.fall_back(settings, model, capability.refusal(model.path, *kinds), warn)


def _require(model: Model, settings: Settings) -> None:
    kinds = settings.type_k, settings.type_v, settings.flash_attn
    capability.require(model.path, model.arch, *kinds)
