"""One answer as it comes: its text, its tokens' log probabilities, its end."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from scope_cpp.engine.generate import Stats
from scope_cpp.engine.parallel import Alternative
from scope_cpp.serve.ticket import Update
from scope_cpp.serve.wording import refusal

LEAST_LOGPROB = -9999.0  # JSON has no infinity

Alternatives = tuple[Alternative, ...]


@dataclass(frozen=True)
class Piece:
    """What is new.

    Attributes
    ----------
    text
        Possibly empty.
    tokens
        For each token whose text has begun: itself, then the most likely ones.
    finish_reason
        ``None`` but in the last piece.
    """

    text: str = ""
    tokens: tuple[Alternatives, ...] = ()
    finish_reason: str | None = None


class Choice:
    """Collects the updates of one row.

    A token's log probabilities are told once its text is: what a stop string takes away is not
    told at all.

    Parameters
    ----------
    piece
        Text of a token, see `Model.token_to_piece`.
    param
        The field that the prompt came from.

    Attributes
    ----------
    stats
        Of the row so far.
    reason
        ``"stop"``, ``"length"``, or ``None`` as long as it runs.
    picture
        The last one, if any.
    no_text
        Why the answer shows nothing, where it does; see `Response`.
    """

    def __init__(self, piece: Callable[[int], bytes], param: str | None = None) -> None:
        self._piece, self._param = piece, param
        self.stats = Stats()
        self.reason: str | None = None
        self.picture: dict[str, Any] | None = None
        self.no_text: str | None = None
        self._held: deque[tuple[int, Alternatives]] = deque()
        self._begun = self._shown = 0  # bytes of the tokens so far, and of the text

    @property
    def started(self) -> bool:
        """Whether there is any token."""
        return self.stats.n_generated > 0

    def take(self, update: Update) -> Piece:
        """Return what is new.

        Raises
        ------
        ApiError
            If the row failed, or was refused.
        """
        if update.error is not None:
            raise refusal(update.error, self._param)
        self.stats, self.picture = update.stats or self.stats, update.picture
        self.no_text = update.no_text
        self.reason = "length" if update.cut else update.finish_reason
        for alternatives in update.logprobs:
            self._held.append((self._begun, alternatives))
            self._begun += len(self._piece(alternatives[0].token))
        text = "".join(update.texts)
        self._shown += len(text.encode("utf-8", errors="replace"))
        return Piece(text, self._told(self.reason == "length"), self.reason)

    def _told(self, all_of_them: bool) -> tuple[Alternatives, ...]:
        told = []
        while self._held and (all_of_them or self._held[0][0] < self._shown):
            told.append(self._held.popleft()[1])
        return tuple(told)


def logprob(alternative: Alternative) -> float:
    """A number that JSON can hold."""
    value = alternative.logprob
    return value if math.isfinite(value) else LEAST_LOGPROB
