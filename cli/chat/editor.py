"""The line where the user types: history, completion, many lines."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from prompt_toolkit import PromptSession
from prompt_toolkit.completion import CompleteEvent, Completer, Completion, PathCompleter
from prompt_toolkit.document import Document
from prompt_toolkit.history import FileHistory, History, InMemoryHistory
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.output import create_output
from prompt_toolkit.shortcuts import CompleteStyle

from scope_cpp.printable import printable

QUOTES = '"""'

Words = Callable[[Sequence[str]], Iterable[str] | None]


class Editor:
    """Reads messages from a terminal.

    Parameters
    ----------
    complete
        Takes the words of a command before the one that is typed, and returns what that one may
        be; ``None`` stands for the name of a file.
    history
        Where messages are kept, ``None`` for nowhere.
    """

    def __init__(self, complete: Words, history: Path | None) -> None:
        # the answers may go to a file: what is typed is then shown on stderr
        shown = sys.stdout if sys.stdout is not None and sys.stdout.isatty() else sys.stderr
        kept: History = InMemoryHistory() if history is None else _History(str(history))
        self._session: PromptSession[str] = PromptSession(
            multiline=True,
            history=kept,
            completer=_Completer(complete),
            complete_while_typing=False,
            complete_style=CompleteStyle.READLINE_LIKE,
            key_bindings=_keys(),
            prompt_continuation=_continuation,
            output=create_output(stdout=shown),
        )

    def read(self, label: str, text: str = "") -> str:
        """Return what the user types, `text` to begin with.

        Raises
        ------
        KeyboardInterrupt
            For Ctrl-C; `left` has what was typed.
        EOFError
            For Ctrl-D on an empty line.
        """
        typed = self._session.prompt(label, default=printable(text))
        return whole(typed)

    @property
    def left(self) -> str:
        """What was on the line when Ctrl-C was pressed."""
        return self._session.default_buffer.text


def whole(text: str) -> str:
    """Return text without its triple quotes, in valid Unicode."""
    text = text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    stripped = text.strip()
    if stripped.startswith(QUOTES):
        text = stripped[len(QUOTES) :].removesuffix(QUOTES).strip("\n")
    return text


def is_open(text: str) -> bool:
    """Whether triple quotes were opened and not closed yet."""
    text = text.strip()
    closed = text.endswith(QUOTES) and len(text) >= 2 * len(QUOTES)
    return text.startswith(QUOTES) and not closed


def _continuation(width: int, number: int, wrapped: int) -> str:
    return "" if wrapped else ". ".rjust(width)


def _keys() -> KeyBindings:
    keys = KeyBindings()

    @keys.add("enter")
    def _(event: KeyPressEvent) -> None:
        buffer = event.current_buffer
        if is_open(buffer.text):
            buffer.newline(copy_margin=False)
        else:
            buffer.validate_and_handle()

    @keys.add("escape", "enter")
    def _(event: KeyPressEvent) -> None:
        event.current_buffer.newline(copy_margin=False)

    return keys


class _History(FileHistory):
    """Keeps what UTF-8 can hold, and goes on without a file that can't be written."""

    def store_string(self, string: str) -> None:
        try:
            super().store_string(string.encode("utf-8", "replace").decode("utf-8"))
        except OSError:
            return


class _Completer(Completer):
    """Commands, their words, and names of files."""

    def __init__(self, complete: Words) -> None:
        self._complete = complete
        self._paths = PathCompleter(expanduser=True)

    def get_completions(self, document: Document, event: CompleteEvent) -> Iterable[Completion]:
        line = document.text_before_cursor
        if not line.startswith("/") or line.startswith("//") or "\n" in line:
            return
        words = line.split(" ")
        before, last = [word for word in words[:-1] if word], words[-1]
        found = self._complete(before)
        if found is None:
            # a name may have spaces: it begins behind the first words that want one
            n = next(n for n in range(1, len(words)) if self._complete(before[:n]) is None)
            path = line.split(maxsplit=n)[n] if len(before) > n or last else ""
            yield from self._paths.get_completions(Document(path, len(path)), event)
            return
        for word in sorted(found):
            if word.startswith(last):
                yield Completion(word, start_position=-len(last))
