"""How far one next-token distribution is from another, and what that sums up to over a text.

Of the full cache's distribution p the most likely tokens are kept, and the probability of all
others together. Against a row's distribution q::

    KL(p || q) = sum over kept tokens of p (ln p - ln q)  +  P ln (P / Q)

with P and Q what p and q give to the other tokens together. That is the divergence of two
distributions over the kept tokens and "another one", so it is never negative, and never more than
the divergence over the whole vocabulary. What is missing is P times the divergence within the
other tokens; `MASS` keeps P at .001 or less, unless it takes more than `MOST` tokens.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Logits = NDArray[np.float32]

MASS, MOST = 0.999, 4096
"""Tokens are kept until they have this probability together, at most so many."""

# A share of all other tokens that is no larger may be nothing but the rounding of the sum; a row's
# is never taken to be smaller than the second
_ROUNDING, _LEAST = 1e-6, 1e-9

PARTS = 4
WORST = 0.01

NEGLIGIBLE = 0.01
"""Smaller divergences count as this one where rows are compared by ratios."""

NOTHING_EVICTED = "nothing evicted"


@dataclass(frozen=True)
class Likely:
    """The head of a distribution.

    Attributes
    ----------
    ids
        int32 (k,): the most likely tokens, the most likely first.
    logprobs
        float32 (k,): natural logarithms of their probabilities.
    rest
        Probability of all other tokens together.
    """

    ids: NDArray[np.int32]
    logprobs: NDArray[np.float32]
    rest: float


@dataclass(frozen=True)
class Divergence:
    """A row against the full cache, by token of the full cache's text.

    Attributes
    ----------
    kl
        Nats, see the module.
    same
        1 where both have the same most likely token, 0 elsewhere.
    extra
        How much less likely the row took the text's token to be, in nats: its negative
        log-likelihood less the full cache's.
    counted
        The first token that counts: the one before it was the first for which the row had no cell
        left. ``None`` if the row never ran out of cells.
    """

    kl: tuple[float, ...]
    same: tuple[int, ...]
    extra: tuple[float, ...]
    counted: int | None

    def __post_init__(self) -> None:
        """Refuse parts that do not belong together."""
        if not len(self.kl) == len(self.same) == len(self.extra) > (self.counted or 0):
            raise ValueError("a divergence with parts of several lengths, or without tokens")

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Divergence:
        """Build it from the dict of its fields."""
        kl, extra = (tuple(map(float, values[name])) for name in ("kl", "extra"))
        counted = values["counted"]
        same = tuple(map(int, values["same"]))
        return cls(kl, same, extra, None if counted is None else int(counted))


@dataclass(frozen=True)
class Distribution:
    """A next-token distribution.

    Attributes
    ----------
    logits
        float32 (n_vocab,).
    log_z
        Logarithm of what their exponentials sum up to.
    """

    logits: Logits
    log_z: float

    @classmethod
    def of(cls, logits: Logits) -> Distribution:
        """Return the softmax of logits; exponentials in float32 are several times as fast."""
        top = float(logits.max())
        total = np.exp(logits - np.float32(top)).sum(dtype=np.float64)
        return cls(logits, top + math.log(float(total)))

    def logprobs(self, ids: NDArray[Any]) -> NDArray[np.float64]:
        """Return natural logarithms of the probabilities of some tokens."""
        return self.logits[ids].astype(np.float64) - self.log_z

    def logprob(self, token: int) -> np.float32:
        """Return the same of one token, as it is kept."""
        return np.float32(float(self.logits[token]) - self.log_z)


def head_of(full: Distribution, mass: float = MASS, most: int = MOST) -> Likely:
    """Return the most likely tokens of a distribution; of equally likely ones the first.

    At least one is kept; for `mass` and `most` see `MASS`.
    """
    logits, n = full.logits, full.logits.size
    found = np.arange(n) if n <= most else np.argpartition(-logits, most - 1)[:most]
    found = found[np.lexsort((found, -logits[found]))]
    kept = 1 + int(np.searchsorted(np.cumsum(np.exp(full.logprobs(found))), mass))
    ids = found[:kept].astype(np.int32)
    logprobs, rest = full.logprobs(ids), _rest(full.logprobs(ids))
    return Likely(ids, logprobs.astype(np.float32), rest if rest > _ROUNDING else 0.0)


def kl(full: Likely, row: Distribution) -> float:
    """Return KL(full || row) in nats, see the module; exactly 0 for the same distribution."""
    own = row.logprobs(full.ids)
    known = full.logprobs.astype(np.float64)
    total = float(np.exp(known) @ (known - own.astype(np.float32)))
    if full.rest:
        total += full.rest * math.log(full.rest / max(_rest(own), _LEAST))
    return max(0.0, total)


def _rest(logprobs: NDArray[np.float64]) -> float:
    return 1.0 - float(np.exp(logprobs).sum())


def first_counted(n_tokens: int, room: int, evicted: bool) -> int | None:
    """Return the first token of a text that is compared, see `Divergence.counted`.

    Rows of equal cells are compared on the same tokens, whenever each of them evicted first.

    Parameters
    ----------
    n_tokens
        Of the text.
    room
        Tokens of it for which the row has cells.
    evicted
        Whether it evicted anything. Some do so before they must; where the text ends before that,
        all of it counts.
    """
    if room + 1 < n_tokens:
        return room + 1
    return 0 if evicted else None


def mean(values: Sequence[float]) -> float:
    """Return the mean of at least one value."""
    return math.fsum(values) / len(values)


def parts(values: Sequence[float]) -> tuple[float, ...]:
    """Return the means of the `PARTS` equal parts of a text; none for one that is too short."""
    n = len(values)
    if n < PARTS:
        return ()
    ends = [n * part // PARTS for part in range(PARTS + 1)]
    return tuple(mean(values[a:b]) for a, b in zip(ends, ends[1:], strict=False))


def worst(values: Sequence[float]) -> float:
    """Return the mean of the largest `WORST` of the values, of one at least."""
    return mean(sorted(values)[-max(1, round(WORST * len(values))) :])


def number(value: float, sign: str = "") -> str:
    """Return a divergence with four digits after the point, without the zero before it."""
    return f"{value:{sign}.4f}".replace("0.", ".", 1) if abs(value) < 1 else f"{value:{sign}.3f}"
