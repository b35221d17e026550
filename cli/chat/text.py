"""What a model writes, told apart from what it only thinks; errors in a chat's own words."""

from __future__ import annotations

import re
from typing import NamedTuple

_OPEN, _CLOSE = "<think>", "</think>"


def in_commands(text: str) -> str:
    """Return an error with the commands that set what its flags set.

    >>> in_commands("give --prefill snapkv, or a larger --budget")
    'give /policy prefill=snapkv, or a larger /budget'
    """
    text = re.sub(r"--(prefill|granularity) (\w)", r"/policy \1=\2", text)
    text = re.sub(r"--(prefill|granularity)\b", r"/policy \1", text)
    return re.sub(r"--(policy|budget)\b", r"/\1", text)


class Part(NamedTuple):
    """A piece of an answer."""

    text: str
    thought: bool


class Thoughts:
    """Tell an answer's leading ``<think>…</think>`` from the answer; the tags are left out.

    Tags anywhere else are text like any other.
    """

    def __init__(self) -> None:
        self._held = ""
        self._state = "start"  # then "thought", then "answer"
        self._begun = True  # whether a thought has text

    def push(self, piece: str) -> list[Part]:
        """Return the parts that are certain by now."""
        self._held += piece
        parts: list[Part] = []
        if self._state == "start":
            self._start()
        if self._state == "thought":
            parts += self._thought()
        if self._state == "answer" and self._held:
            parts.append(Part(self._take(len(self._held)), False))
        return parts

    def finish(self) -> list[Part]:
        """Return what was held back."""
        rest = self._take(len(self._held))
        return [Part(rest, self._state == "thought")] if rest else []

    def _start(self) -> None:
        begun = self._held.lstrip()
        if begun.startswith(_OPEN):
            self._held = begun[len(_OPEN) :]
            self._state = "thought"
            self._begun = False
        elif not _OPEN.startswith(begun):
            self._state = "answer"

    def _thought(self) -> list[Part]:
        self._held = self._held if self._begun else self._held.lstrip("\n")
        self._begun = bool(self._held)
        text, tag, rest = self._held.partition(_CLOSE)
        if tag:
            self._held, self._state = rest, "answer"
            return [Part(text, True)] if text else []
        sure = len(text) - _overlap(text, _CLOSE)
        return [Part(self._take(sure), True)] if sure else []

    def _take(self, n: int) -> str:
        taken, self._held = self._held[:n], self._held[n:]
        return taken


def _overlap(text: str, tag: str) -> int:
    """Length of the longest end of `text` that begins `tag`."""
    return next((n for n in range(len(tag) - 1, 0, -1) if text.endswith(tag[:n])), 0)
