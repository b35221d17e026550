"""Where the prompt comes from: a flag, a file, or stdin."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from scope_cpp.errors import UsageError
from scope_cpp.texts import NotText, decode

from .escapes import unescaped
from .flags import PromptFlags

if TYPE_CHECKING:
    from scope_cpp.engine.model import Model


def read_prompt(flags: PromptFlags) -> str:
    """Return the text that the user gave: a file or stdin exactly, ``-p`` with its escapes read.

    Raises
    ------
    UsageError
        If there is none, it is empty, two are given, or it is not UTF-8.
    """
    if flags.prompt is not None and flags.file is not None:
        raise UsageError("-p and -f both give a prompt: leave one out")
    text = flags.prompt
    if text is not None and not flags.no_escape:
        text = unescaped(text, "-p")
    if text is None:
        text = _stdin() if flags.file in (None, "-") else read_text("-f", flags.file)
    if not text.strip():
        raise UsageError("the prompt is empty: give a text with -p or -f")
    return text


def message_of(text: str, prompt: str | None) -> str:
    """Return what was read as a message: the newline that ends a file or a pipe is not its text.

    `prompt` is what ``-p`` gave, if it was that.
    """
    return text if prompt is not None else text.removesuffix("\n")


def format_prompt(
    model: Model, flags: PromptFlags, text: str, warn: Callable[[str], None]
) -> tuple[str, list[str], bool]:
    """Return the prompt, its stop strings, and whether control tokens in it are read as such.

    Where the model has a chat template the text is a user's message, unless the flags say ``raw``.

    Raises
    ------
    UsageError
        If the flags contradict each other, or the template fails.
    """
    from scope_cpp.engine.chat import format_chat

    template = template_of(flags.chat_template, flags.chat_template_file)
    chat = flags.chat or flags.system_prompt is not None or template is not None
    if flags.raw and chat:
        raise UsageError(
            "--raw continues the text without a template: leave --raw out, or --chat, -sys and "
            "--chat-template"
        )
    if flags.raw or not (chat or model.chat_template):
        return text, [], not flags.no_parse_special

    named = [name for name in model.control_names if name in text]
    if named:
        warn(
            f"the prompt has {', '.join(named[:3])} as plain text, like all of a user's message: "
            "--raw reads control tokens and continues the text without the chat template"
        )
    messages = [{"role": "user", "content": message_of(text, flags.prompt)}]
    if flags.system_prompt is not None:
        messages.insert(0, {"role": "system", "content": flags.system_prompt})
    prompt, stops = format_chat(model, messages, template)
    return prompt, stops, True


def template_of(template: str | None, file: str | None) -> str | None:
    """Return the template that is given by name, as text or as a file; ``None`` if none is.

    Raises
    ------
    UsageError
        If both are given, the name is unknown, or the file can't be read.
    """
    from scope_cpp.engine.chat import check_template

    if file is not None:
        if template is not None:
            raise UsageError("--chat-template and --chat-template-file: leave one out")
        template = read_text("--chat-template-file", file)
    if template is not None:
        check_template(template)
    return template


def read_text(flag: str, path: str) -> str:
    """Return the text of a file that `flag` names.

    Raises
    ------
    UsageError
        If it can't be read or is not UTF-8.
    """
    try:
        return decode(Path(path).read_bytes())
    except (OSError, ValueError) as err:  # ValueError: no text, or a NUL character in the path
        raise UsageError(f"{flag} {path}: {getattr(err, 'strerror', None) or err}") from None


def _stdin() -> str:
    if sys.stdin is None or sys.stdin.isatty():
        raise UsageError("there is no prompt: give -p TEXT or -f FILE, or pipe a text in")
    try:
        return decode(sys.stdin.buffer.read())
    except NotText as err:
        raise UsageError(f"stdin: {err}") from None
