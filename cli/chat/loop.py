"""The chat itself: read a line, do what it says, show the answer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from scope_cpp.errors import ScopeError

from .. import terminal
from ..interrupt import INTERRUPTED, Interrupts
from . import commands, lines
from .talk import Chat, Leave
from .text import in_commands

if TYPE_CHECKING:
    from .editor import Editor

LABEL, EDIT_LABEL = "> ", "edit> "


def single(chat: Chat, text: str) -> int:
    """Answer one message; return the exit code."""
    try:
        outcome = chat.ask(text, back="")
    except Leave as left:
        return left.code
    if outcome.error is not None:
        return outcome.error.exit_code
    return INTERRUPTED if chat.interrupted else int(chat.unsaved)


def run(chat: Chat, editor: Editor, first: str | None = None) -> int:
    """Talk until the user leaves; return the exit code."""
    code = 0
    try:
        if first is not None:
            chat.ask(first)
        while True:
            try:
                _step(chat, editor)
            except KeyboardInterrupt:  # between two lines
                _stopped_at_prompt(chat, "")
    except Leave as left:
        code = left.code
    chat.save_at_end()
    return code or int(chat.unsaved)


def _step(chat: Chat, editor: Editor) -> None:
    """Read a line and do what it says."""
    label, line = (EDIT_LABEL if chat.editing else LABEL), chat.line
    chat.line = ""
    try:
        line = editor.read(label, line)
    except EOFError:
        raise Leave(0) from None
    except KeyboardInterrupt:
        _stopped_at_prompt(chat, editor.left)
        return
    chat.interrupted = False
    try:
        with Interrupts() as interrupts:
            _do(chat, line)
        if interrupts.count:
            chat.interrupted = True
    except Leave:
        raise
    except ScopeError as err:
        terminal.error(in_commands(str(err)))
    except Exception as err:  # a fault of ours: what was said so far is not lost for it
        terminal.fault(err, chat.verbose, "; the chat goes on, /save FILE keeps it")


def _stopped_at_prompt(chat: Chat, left: str) -> None:
    if chat.interrupted:
        raise Leave(INTERRUPTED)
    chat.interrupted, chat.editing = True, False
    if not left:
        terminal.note("press Ctrl-C again to leave")


def _do(chat: Chat, line: str) -> None:
    if chat.editing:
        chat.editing = False
        if line.strip():
            chat.answer_edited(line)
        return
    command = lines.command(line)
    if command is not None:
        name, rest = command
        commands.find(name).run(chat, rest)
    elif line.strip() or chat.attached:
        chat.ask(lines.message(line))
