"""The flags of ``scope chat`` that no other command has."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Annotated

from ..flags import (
    ANOTHER_TEMPLATE,
    CACHE,
    TEMPLATE_FILE,
    TEMPLATES,
    BudgetFlags,
    Config,
    NoEscape,
    Verbose,
)
from ..groups import flag
from ..help_page import OUTPUT

_prompt = partial(flag, "Prompt")
_cache = partial(flag, CACHE)
_output = partial(flag, OUTPUT)


@dataclass(frozen=True)
class TalkFlags:
    """What is said."""

    prompt: Annotated[
        str | None, _prompt("--prompt", "-p", metavar="TEXT", help="The first message.")
    ] = None
    file: Annotated[
        str | None,
        _prompt(
            "--file", "-f", metavar="FILE", help="Read the first message from a file; - is stdin."
        ),
    ] = None
    system_prompt: Annotated[
        str | None, _prompt("--system-prompt", "-sys", metavar="TEXT", help="The system message.")
    ] = None
    system_prompt_file: Annotated[
        str | None,
        _prompt(
            "--system-prompt-file",
            "-sysf",
            metavar="FILE",
            help="Read the system message from a file.",
        ),
    ] = None
    chat_template: Annotated[
        str | None,
        _prompt("--chat-template", metavar="NAME|JINJA", choices=TEMPLATES, help=ANOTHER_TEMPLATE),
    ] = None
    chat_template_file: Annotated[
        str | None,
        _prompt("--chat-template-file", metavar="FILE", help=TEMPLATE_FILE),
    ] = None
    no_escape: NoEscape = False
    single_turn: Annotated[
        bool,
        _prompt(
            "--single-turn",
            "-st",
            help="Answer one message and end. A message that is piped in is answered so too.",
        ),
    ] = False
    session: Annotated[
        str | None,
        _prompt(
            "--session",
            metavar="FILE",
            help="Resume the conversation in this file, if it exists, and save it there after each"
            " turn.",
        ),
    ] = None


@dataclass(frozen=True)
class ChatBudgetFlags(BudgetFlags):
    """How large the cache is; a conversation has no length that a budget could be derived from."""

    budget: Annotated[
        str | None,
        _cache(
            "--budget",
            metavar="CELLS",
            help="KV cells of the whole conversation, never exceeded: a number (8192, 8k), memory"
            " with all buffers (512MiB), or auto, which is half of the free memory.",
            show_default="{engine.settings:CHAT_CELLS}, or as many as fit into half of the free"
            " memory",
        ),
    ] = None


@dataclass(frozen=True)
class ChatOutputFlags:
    """What is printed."""

    no_markdown: Annotated[
        bool, _output("--no-markdown", help="Show the answers as plain text.")
    ] = False
    verbose: Verbose = False
    config: Config = None
