"""Attention that is invented from positions: what is chosen by it depends on no rounding."""

from __future__ import annotations

from functools import cache as once
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from scope_cpp.engine.cache.bounded import BoundedCache
from scope_cpp.engine.cache.scorer import Scorer

F32 = npt.NDArray[np.float32]
N_MOST = 512


@once
def logits(n_layer: int, n_head: int) -> F32:
    """Peaked logits that each query gives to each position: (layer, head, query, position)."""
    draw = np.random.default_rng(11)
    return 3 * draw.standard_normal((n_layer, n_head, N_MOST, N_MOST), np.float32)


def weights(pos: npt.NDArray[np.int32], queries: range) -> F32:
    """Softmax weights that `queries` give to rows of these positions, summed: as `pos`, f32.

    A query sees what is not after it; rows of position -1 are dead.
    """
    table = logits(*pos.shape[:2])
    total = np.zeros(pos.shape, np.float32)
    for query in queries:
        seen = (pos >= 0) & (pos <= query)
        of_query = np.take_along_axis(table[:, :, query], np.maximum(pos, 0), axis=-1)
        weight = np.exp(of_query) * seen
        total += weight / weight.sum(axis=-1, keepdims=True)
    return total


def invent_attention(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every cache that is made from now on score by `weights`, heads by KV heads."""
    init = BoundedCache.__init__

    def noted(self: BoundedCache, *args: Any, **more: Any) -> None:
        init(self, *args, **more)
        self.scorer.ledger_of = lambda: self.ledger  # type: ignore[attr-defined]

    def scores(self: Any, n: int, ids: npt.NDArray[np.int32]) -> F32:
        ledger = self.ledger_of()
        assert ledger.labels.size == ids.size
        n_past = int(ledger.labels[-1]) + 1
        return weights(ledger.pos, range(n_past - n, n_past))

    monkeypatch.setattr(BoundedCache, "__init__", noted)
    monkeypatch.setattr(Scorer, "_scores", scores)
