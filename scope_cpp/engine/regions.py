"""Which tokens of a prompt are the system's, the user's, or an answer that is read again."""

from __future__ import annotations

from dataclasses import dataclass

from scope_cpp.engine import transcript
from scope_cpp.engine.chat import as_text
from scope_cpp.engine.model import Model
from scope_cpp.engine.rendering import Messages, Rendering
from scope_cpp.engine.turns import Region, Turn, common_prefix, find_answers


@dataclass(frozen=True)
class Piece:
    """What a turn reads of a rendering.

    Attributes
    ----------
    text, tokens
        The same, rendered and in tokens.
    first
        Whether the conversation begins with it.
    after_special
        As of `transcript.tokenize`.
    """

    text: str
    tokens: list[int]
    first: bool
    after_special: bool

    def locate(self, model: Model, n_chars: int, up: bool) -> int:
        """Token that a character lies in: the one after it (`up`) if it lies within."""
        part: list[int] = []
        if n_chars:
            text = self.text[:n_chars]
            part = transcript.tokenize(model, text, self.first, self.after_special)
        n = common_prefix(part, self.tokens)
        return min(len(self.tokens), n + (up and n < len(part)))


def find_regions(
    rendering: Rendering,
    messages: Messages,
    last: Turn | None,
    piece: Piece,
    at: int,
) -> list[Region]:
    """Regions of a piece that is about to be read.

    Parameters
    ----------
    rendering, messages
        Of what it is a piece, and the messages up to its end.
    last
        The turn before; ``None`` if there is none.
    piece
        What is read.
    at
        Its position.
    """
    model = rendering.model
    regions = []
    start, n = 0, len(piece.tokens)
    if piece.first:
        start = min(common_prefix(piece.tokens, other) for other in rendering.openings)
        regions.append(Region("system", 0, at, at + start))
    turn, rest = _unread(messages, last)
    for begin, end in find_answers(piece.text, as_text(model, rest)):
        a, b = max(start, piece.locate(model, begin, True)), piece.locate(model, end, False)
        regions.append(Region("prompt", turn, at + start, at + a))
        if b > a:
            regions.append(Region("answer", turn, at + a, at + b))
        start = max(a, b)
        turn += 1
    regions.append(Region("prompt", turn, at + start, at + n))
    return [region for region in regions if region.stop > region.start]


def _unread(messages: Messages, last: Turn | None) -> tuple[int, Messages]:
    """The turn that what is not read yet begins in, and its messages."""
    talk = [m for m in messages if m["role"] != "system"]
    if last is None:
        return 0, talk
    asked = [i for i, message in enumerate(talk) if message["role"] == "user"]
    rest = talk[asked[last.index] + 1 :] if last.index < len(asked) else []
    if last.answer:
        return last.index + 1, rest[1:]
    return last.index, rest
