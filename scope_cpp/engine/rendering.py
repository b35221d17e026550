"""A chat as its template renders it, and in which pieces it is read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from scope_cpp.engine import transcript
from scope_cpp.engine.chat import as_text
from scope_cpp.engine.model import Model
from scope_cpp.engine.turns import find_answers

Messages = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Rendering:
    """Messages up to where the next answer begins.

    Attributes
    ----------
    model, messages, template
        What is rendered.
    text, stops
        See `transcript.render`.
    """

    model: Model
    messages: Messages
    template: str | None
    text: str
    stops: tuple[str, ...]

    @classmethod
    def of(cls, model: Model, messages: Messages, template: str | None) -> Rendering:
        """Render messages. Raises as `transcript.render`."""
        text, stops = transcript.render(model, messages, template)
        return cls(model, messages, template, text, tuple(stops))

    @cached_property
    def openings(self) -> list[list[int]]:
        """See `transcript.openings`."""
        return transcript.openings(self.model, self.messages, self.template)

    @cached_property
    def _answers(self) -> list[tuple[int, int, int]]:
        """The messages that are answers, and where the text has each of them."""
        talk = [message for message in self.messages if message["role"] != "system"]
        answers = [i for i, message in enumerate(self.messages) if message["role"] == "assistant"]
        spans = find_answers(self.text, as_text(self.model, talk))
        return [(i, *span) for i, span in zip(answers, spans, strict=True)]

    @cached_property
    def _known(self) -> dict[tuple[int, int, bool], list[int]]:
        return {}

    def pieces(self, at: int) -> list[tuple[int, Messages]]:
        """Return the pieces in which the text is read from character `at` on.

        A piece ends where an answer begins that is not read yet, as it did when that was written.

        Returns
        -------
        list of (stop, messages)
            Where each ends, and the messages up to there.
        """
        found: list[tuple[int, Messages]] = []
        for i, begin, end in self._answers:
            if begin < end and self.text[at:begin].strip():
                found.append((begin, self.messages[:i]))
                at = begin
        return [*found, (len(self.text), self.messages)]

    def tokenize(self, at: int, stop: int, after_special: bool) -> list[int]:
        """Tokens of a piece; see `transcript.tokenize`."""
        key = at, stop, after_special
        if key not in self._known:
            text = self.text[at:stop]
            self._known[key] = transcript.tokenize(self.model, text, at == 0, after_special)
        return self._known[key]

    def prepare(self) -> None:
        """Work out now what takes long in a long text, and will be asked for.

        That is the whole text in pieces, and what follows the last answer.
        """
        at, after_special = 0, True
        for stop, _ in self.pieces(0):
            tokens = self.tokenize(at, stop, after_special)
            at, after_special = stop, not ends_plain(self.model, tokens)
        if self._answers:
            self.tokenize(self._answers[-1][2], len(self.text), False)
        len(self.openings)


def ends_plain(model: Model, tokens: Sequence[int]) -> bool:
    """Whether tokens end with text, not with a control token."""
    return bool(tokens) and model.token_to_piece(tokens[-1]) != b""
