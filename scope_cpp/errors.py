"""The two errors that a user sees: one line each, naming the cause and the remedy."""

from __future__ import annotations

from typing import ClassVar


class ScopeError(Exception):
    """Something went wrong while the request ran; the command exits with 1."""

    exit_code: ClassVar[int] = 1


class UsageError(ScopeError):
    """The request itself is wrong (unknown name, bad value); the command exits with 2."""

    exit_code: ClassVar[int] = 2
