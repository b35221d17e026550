"""How a chat begins: what the flags say, and a conversation, new or taken up."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import typer

from scope_cpp.engine.conversation import Conversation
from scope_cpp.engine.model import Model
from scope_cpp.engine.session_file import check_writable
from scope_cpp.engine.settings import Settings
from scope_cpp.errors import ScopeError, UsageError

from .. import convert
from ..flags import BudgetFlags, ComputeFlags, LengthFlags, PolicyFlags, SamplingFlags
from ..prompt import message_of, read_prompt, read_text, template_of
from .files import path_of
from .flags import TalkFlags

# what a saved conversation takes over, and what it can't
_POLICY = ("policy", "prefill", "granularity", "option")
_FIXED = {
    **{"ctx_size": "-c", "type_k": "-ctk", "type_v": "-ctv", "flash_attn": "-fa"},
    "n_ubatch": "-ub",
}
_OWN = ("system_prompt", "system_prompt_file", "chat_template", "chat_template_file")


def is_alone(talk: TalkFlags) -> bool:
    """Whether there is one message only: so it was asked for, or nobody is there to write more.

    Raises
    ------
    UsageError
        If the user would write, but can't see it.
    """
    if talk.single_turn or sys.stdin is None or not sys.stdin.isatty():
        return True
    seen = any(stream is not None and stream.isatty() for stream in (sys.stdout, sys.stderr))
    if not seen:
        raise UsageError("there is no terminal to talk on: give one message with -p and -st")
    return False


def first_message(talk: TalkFlags, alone: bool) -> str | None:
    """Return the message that the flags or stdin give, None if the user is to type it.

    Raises
    ------
    UsageError
        If there is none where nobody can type it, or it can't be read.
    """
    if talk.prompt is None and talk.file is None and not alone:
        return None
    if sys.stdin is None and talk.prompt is None and talk.file in (None, "-"):
        raise UsageError("there is no message: give -p TEXT or -f FILE, or pipe a text in")
    from ..flags import PromptFlags

    flags = PromptFlags(prompt=talk.prompt, file=talk.file, no_escape=talk.no_escape)
    return message_of(read_prompt(flags), talk.prompt)


@dataclass(frozen=True)
class Opening:
    """What a conversation begins with.

    Attributes
    ----------
    settings, sampling, n_predict, stop, system, template
        Of a new conversation; `sampling` is what the user gave.
    session
        Where it is saved, and taken up if that file exists.
    given
        Names of the parameters that the user gave.
    """

    settings: Settings
    sampling: dict[str, Any]
    n_predict: int | None
    stop: tuple[str, ...]
    system: str | None
    template: str | None
    session: Path | None
    given: frozenset[str]

    @classmethod
    def from_flags(
        cls,
        ctx: typer.Context,
        talk: TalkFlags,
        length: LengthFlags,
        budget: BudgetFlags,
        policy: PolicyFlags,
        sampling: SamplingFlags,
        compute: ComputeFlags,
    ) -> Opening:
        """Check the flags.

        Raises
        ------
        UsageError
            For a value out of range, or a file that can't be read.
        ScopeError
            If the session can't be saved.
        """
        session = None if talk.session is None else path_of(talk.session)
        if session is not None:
            _require_writable(session)
        given = {name for name in ctx.params if _is_given(ctx, name)}
        return cls(
            settings=convert.settings(budget, policy, compute),
            sampling=convert.sampling_values(sampling),
            n_predict=convert.longest_output(length),
            stop=convert.stop_strings(length.stop, not talk.no_escape),
            system=_system(talk),
            template=template_of(talk.chat_template, talk.chat_template_file),
            session=session,
            given=frozenset(given),
        )

    def open(self, model: Model, warn: Callable[[str], None]) -> Conversation:
        """Open the conversation.

        Raises
        ------
        ScopeError
            If the file is no session of this model, or a flag can't be had with it.
        """
        if self.session is not None and self.session.exists():
            return self._resume(self.session, model, warn)
        return Conversation(
            model,
            settings=self.settings,
            sampling=convert.sampling_params(model, self.sampling, warn),
            system=self.system,
            template=self.template,
            n_predict=self.n_predict,
            stop=self.stop,
            warn=warn,
        )

    def _resume(self, path: Path, model: Model, warn: Callable[[str], None]) -> Conversation:
        """Take up a saved conversation; flags that can change in a conversation are applied."""
        for name in _OWN:
            if name in self.given:
                flag = "--" + name.replace("_", "-")
                raise UsageError(f"{flag}: {path} has its own; leave the flag out")
        conversation = Conversation.resume(model, path, compute=self.settings, warn=warn)
        try:
            self._apply(path, conversation)
        except BaseException:
            conversation.close()
            raise
        return conversation

    def _apply(self, path: Path, conversation: Conversation) -> None:
        for name, flag in _FIXED.items():
            saved = getattr(conversation.settings, name)
            if name in self.given and getattr(self.settings, name) != saved:
                raise UsageError(f"{flag}: {path} has {saved}; leave the flag out")
        changes = {
            field: getattr(self.settings, field)
            for field in ("policy", "prefill", "granularity", "options")
            if field.removesuffix("s") in self.given
        }
        if changes:
            conversation.set_policy(**changes)
        if "budget" in self.given:
            conversation.set_budget(self.settings.budget)
        values = {name: value for name, value in self.sampling.items() if self._gave(name)}
        if values:
            conversation.set_sampling(replace(conversation.sampling, **values))
        if "n_predict" in self.given:
            conversation.n_predict = self.n_predict
        if "stop" in self.given:
            conversation.stop = self.stop

    def _gave(self, name: str) -> bool:
        return name in self.given or f"{name}_file" in self.given


def _require_writable(session: Path) -> None:
    """Refuse a session that can't be saved, before anything is said.

    A file that is no session is left to who takes it up.
    """
    try:
        check_writable(session)
    except ScopeError as err:
        if not os.path.isfile(session) or not isinstance(err, UsageError):
            raise type(err)(f"--session: {err}") from None


def _is_given(ctx: typer.Context, name: str) -> bool:
    source = ctx.get_parameter_source(name)
    return source is not None and source.name != "DEFAULT"


def _system(talk: TalkFlags) -> str | None:
    """Return the system message, which one flag gives and another reads from a file."""
    if talk.system_prompt_file is None:
        return talk.system_prompt
    if talk.system_prompt is not None:
        raise UsageError("--system-prompt and --system-prompt-file: leave one out")
    return read_text("--system-prompt-file", talk.system_prompt_file)
