"""The flags of ``scope chat`` that no other command has."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Annotated

from ..flags import Config, Verbose
from ..groups import flag

_prompt = partial(flag, "Prompt")
_output = partial(flag, "Output")


@dataclass(frozen=True)
class TalkFlags:
    """What is said."""

    prompt: Annotated[
        str | None, _prompt("--prompt", "-p", metavar="TEXT", help="The first message.")
    ] = None
    file: Annotated[
        str | None,
        _prompt("--file", "-f", metavar="FILE", help="The same from a file; - is stdin."),
    ] = None
    system_prompt: Annotated[
        str | None, _prompt("--system-prompt", "-sys", metavar="TEXT", help="The system message.")
    ] = None
    system_prompt_file: Annotated[
        str | None,
        _prompt("--system-prompt-file", "-sysf", metavar="FILE", help="The same from a file."),
    ] = None
    chat_template: Annotated[
        str | None,
        _prompt("--chat-template", metavar="JINJA", help="Instead of the model's own."),
    ] = None
    chat_template_file: Annotated[
        str | None,
        _prompt("--chat-template-file", metavar="FILE", help="The same from a file."),
    ] = None
    single_turn: Annotated[
        bool, _prompt("--single-turn", "-st", help="One message, one answer; so is piped stdin.")
    ] = False
    session: Annotated[
        str | None,
        _prompt(
            "--session",
            metavar="FILE",
            help="Take up the conversation of this file, and save it there after each turn.",
        ),
    ] = None


@dataclass(frozen=True)
class ChatOutputFlags:
    """What is printed."""

    no_markdown: Annotated[
        bool, _output("--no-markdown", help="Show answers as they are written, unformatted.")
    ] = False
    verbose: Verbose = False
    config: Config = None
