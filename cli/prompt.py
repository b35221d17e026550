"""Where the prompt comes from: a flag, a file, or stdin."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from scope_cpp.errors import UsageError

from .flags import PromptFlags

if TYPE_CHECKING:
    from scope_cpp.engine.model import Model


def read_prompt(flags: PromptFlags) -> str:
    """Return the text that the user gave, exactly: a last newline is part of the prompt.

    Raises
    ------
    UsageError
        If there is none, it is empty, two are given, or it is not UTF-8.
    """
    if flags.prompt is not None and flags.file is not None:
        raise UsageError("-p and -f both give a prompt: leave one out")
    text = flags.prompt
    if text is None:
        text = _stdin() if flags.file in (None, "-") else read_text("-f", flags.file)
    if not text.strip():
        raise UsageError("the prompt is empty: give a text with -p or -f")
    return text


def format_prompt(model: Model, flags: PromptFlags, text: str) -> tuple[str, list[str], bool]:
    """Return the prompt as the model reads it, its stop strings, and whether it is a chat."""
    template = template_of(flags.chat_template, flags.chat_template_file)
    if not flags.chat and flags.system_prompt is None and template is None:
        return text, [], False
    from scope_cpp.engine.chat import format_chat

    messages = [{"role": "user", "content": text}]
    if flags.system_prompt is not None:
        messages.insert(0, {"role": "system", "content": flags.system_prompt})
    prompt, stops = format_chat(model, messages, template)
    return prompt, stops, True


def template_of(template: str | None, file: str | None) -> str | None:
    """Return the template that is given as text or as a file; ``None`` if none is.

    Raises
    ------
    UsageError
        If both are given, or the file can't be read.
    """
    if file is None:
        return template
    if template is not None:
        raise UsageError("--chat-template and --chat-template-file: leave one out")
    return read_text("--chat-template-file", file)


def read_text(flag: str, path: str) -> str:
    """Return the text of a file that `flag` names.

    Raises
    ------
    UsageError
        If it can't be read or is not UTF-8.
    """
    try:
        return Path(path).read_bytes().decode("utf-8")
    except (OSError, ValueError) as err:
        raise UsageError(f"{flag} {path}: {_cause(err)}") from None


def _stdin() -> str:
    if sys.stdin is None or sys.stdin.isatty():
        raise UsageError("there is no prompt: give -p TEXT or -f FILE, or pipe a text in")
    try:
        return sys.stdin.buffer.read().decode("utf-8")
    except ValueError as err:
        raise UsageError(f"stdin: {_cause(err)}") from None


def _cause(err: OSError | ValueError) -> str:
    if isinstance(err, UnicodeDecodeError):
        return f"byte {err.start} is not UTF-8: give a text file in UTF-8"
    return str(getattr(err, "strerror", None) or err)
