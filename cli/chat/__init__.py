"""``scope chat``."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import typer

from ..app import shows_first
from ..flags import (
    ComputeFlags,
    LengthFlags,
    ModelFlags,
    PlacementFlags,
    PolicyFlags,
    SamplingFlags,
)
from .flags import ChatBudgetFlags, ChatOutputFlags, TalkFlags

if TYPE_CHECKING:
    from pathlib import Path

    from .editor import Editor
    from .screen import Screen


@shows_first("-hf", "-p", "-sys", "--session", "--budget", "--policy", "-n", "--temp", "-ngl", "-t")
def chat(
    ctx: typer.Context,
    model: ModelFlags,
    talk: TalkFlags,
    length: LengthFlags,
    budget: ChatBudgetFlags,
    policy: PolicyFlags,
    sampling: SamplingFlags,
    placement: PlacementFlags,
    compute: ComputeFlags,
    output: ChatOutputFlags,
) -> None:
    """Talk with a model for as long as you like in a KV cache of a fixed size.

    The command /help lists what you can do in a chat.

    scope chat model.gguf --budget 4k
    """
    from .. import convert, process, shipped, terminal
    from ..interrupt import exit_at_once
    from . import loop
    from .opening import Opening, first_message, is_alone
    from .talk import Chat, Notices
    from .views import settings

    alone = is_alone(talk)
    opening = Opening.from_flags(ctx, talk, length, budget, policy, sampling, compute)
    path = convert.model_path(model, ctx, shipped.path)
    process.prepare(verbose=output.verbose)
    first = first_message(talk, alone)
    screen = _screen(output)
    notices = Notices()
    with exit_at_once():
        loaded = convert.load_model(path, placement)
    with loaded:
        if not model.named:
            shipped.introduce()
        with exit_at_once():
            conversation = opening.open(loaded, notices.warn)
        with conversation:
            talking = Chat(
                conversation,
                screen,
                notices,
                session=opening.session,
                plain=_is_plain(),
                statistics=output.verbose or terminal.is_terminal(),
                verbose=output.verbose,
            )
            if alone:
                assert first is not None
                code = loop.single(talking, first)
            else:
                talking.greet(path)
                if output.verbose:
                    talking.say(settings(conversation))
                code = loop.run(talking, _editor(), first)
    if code:
        raise typer.Exit(code)


def _is_plain() -> bool:
    from .screen import is_plain

    return is_plain()


def _screen(output: ChatOutputFlags) -> Screen:
    """Markdown where a terminal can show it; llama.cpp's log would get into its way."""
    from .. import terminal
    from .screen import Plain, Rich, is_plain

    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    if output.no_markdown or output.verbose or is_plain():
        return Plain(safe=terminal.shows_stdout())
    return Rich()


def _editor() -> Editor:
    from .commands import complete
    from .editor import Editor

    return Editor(complete, _history())


def _history() -> Path | None:
    from .. import terminal
    from .files import history_file

    try:
        return history_file()
    except OSError as err:
        terminal.warning(f"messages are not kept: {err.filename}: {err.strerror}")
        return None
