"""Rules that merge newly observed attention into the scores.

A rule sees one float32 per row and the sum of the weights of the last queries: what a rule keeps
in mind has to fit that number. To add one, write a function and give it a line in `RULES`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from scope_cpp.policies.base import FloatArray

Merge = Callable[[FloatArray, FloatArray, int], FloatArray]


@dataclass(frozen=True)
class Rule:
    """Which queries a rule looks at, and how it merges them.

    Attributes
    ----------
    queries
        ``all`` since the last fold, the ``window`` of the last ones, the ``last`` one, or ``none``.
    merge
        Of the scores so far, already decayed, the newly observed sum of weights, and the number
        of queries in it, all (L, H, n); the new scores.
    """

    queries: str
    merge: Merge


def add(acc: FloatArray, observed: FloatArray, n: int) -> FloatArray:
    """Sum over all queries, as H2O does (https://arxiv.org/abs/2306.14048)."""
    summed: FloatArray = acc + observed
    return summed


def replace(acc: FloatArray, observed: FloatArray, n: int) -> FloatArray:
    """Only the newest observation counts, as in SnapKV (https://arxiv.org/abs/2404.14469)."""
    return observed


def peak(acc: FloatArray, observed: FloatArray, n: int) -> FloatArray:
    """The highest mean weight of any fold."""
    return np.maximum(acc, observed / np.float32(n))


def last_use(acc: FloatArray, observed: FloatArray, n: int) -> FloatArray:
    """The mean weight when the row was last used: when it got more than the head's average."""
    used = observed > observed.mean(axis=-1, keepdims=True)
    return np.where(used, observed / np.float32(n), acc)


def highest_share(acc: FloatArray, observed: FloatArray, n: int) -> FloatArray:
    """The highest weight of any fold, each relative to the head's highest in that fold.

    The global score of G-KV (https://arxiv.org/abs/2512.00504): max(α·F, w / max w).
    """
    highest = observed.max(axis=-1, keepdims=True)
    share = np.divide(observed, highest, out=np.zeros_like(observed), where=highest > 0)
    return np.maximum(acc, share)


RULES = {
    "accumulate": Rule("all", add),
    "window": Rule("window", replace),
    "last": Rule("last", replace),
    "peak": Rule("all", peak),
    "last-use": Rule("all", last_use),
    "global": Rule("window", highest_share),
    "none": Rule("none", add),
}


def tempered(observed: FloatArray, n: int, power: float) -> FloatArray:
    """n·(w/n)^power of the mean weight w/n: many small weights count more with a power below 1."""
    raised: FloatArray = np.float32(n) * (observed / np.float32(n)) ** np.float32(power)
    return raised
