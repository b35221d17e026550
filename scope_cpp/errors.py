"""What a user is told: errors and warnings, one line each, naming the cause and the remedy."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

from scope_cpp.printable import one_line
from scope_cpp.wording import in_use

Warn = Callable[[str], None]
"""Takes one line that the user should know."""


def ignore(line: str) -> None:
    """Take a warning and do nothing."""


class ScopeError(Exception):
    """Something went wrong while the request ran; the command exits with 1.

    The message may quote a stranger's file: it is harmless to print, wherever it ends up.
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, message: object = "") -> None:
        super().__init__(one_line(str(message)))

    def __str__(self) -> str:
        """Return the message in the words of the interface in use."""
        return in_use(super().__str__())


class UsageError(ScopeError):
    """The request itself is wrong (unknown name, bad value); the command exits with 2."""

    exit_code: ClassVar[int] = 2


class TooLong(UsageError):
    """A prompt, or a prompt and its output, that there is no room for."""


class NoRoom(ScopeError):
    """A turn of a conversation that there is no room for; the conversation goes on without it."""


class WrongValue(UsageError):
    """A setting has a value that it can't have.

    Parameters
    ----------
    name
        What the user knows the setting by; where it came in by another name, see `renamed`.
    problem
        The value, what is wrong with it, and what to give.
    """

    def __init__(self, name: str, problem: str) -> None:
        super().__init__(f"{name} {problem}")
        self.name, self.problem = name, problem

    def renamed(self, name: str) -> WrongValue:
        """Return the same, said of another name."""
        return WrongValue(name, self.problem)
