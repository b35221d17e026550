"""What the rows of one sequence hold: true positions and accumulated attention.

llama.cpp knows one position per cell. After per-head evictions a cell holds other tokens in other
heads, so the true position of each row, and its score, are kept here, by the position that labels
its cell. Cells are asked for anew each time: llama.cpp alone decides where a token goes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scope_cpp.engine.cache.plan import Plan
from scope_cpp.errors import ScopeError


@dataclass
class Ledger:
    """Rows of one sequence in the order of their labels.

    Attributes
    ----------
    labels
        int32 (n,): positions that llama.cpp has for the cells, ascending.
    pos
        int32 (layer, KV head, n): true position of the token whose K and V the row holds; -1 of a
        dead row, which nothing attends to (`scope_cpp.engine.cache.plan`). Its score is 0.
    scores
        (layer, head, n) of the type `Policy.row`: what the policy made of the attention so far; by
        KV head, or by query head where whole cells are evicted.
    """

    labels: NDArray[np.int32]
    pos: NDArray[np.int32]
    scores: NDArray[Any]

    @classmethod
    def empty(cls, n_layer: int, n_head_kv: int, n_head_scored: int) -> Ledger:
        """Return a ledger of a sequence without cells."""
        return cls(
            np.empty(0, np.int32),
            np.empty((n_layer, n_head_kv, 0), np.int32),
            np.empty((n_layer, n_head_scored, 0), np.float32),
        )

    def sync(self, labels: NDArray[np.int32]) -> None:
        """Follow llama.cpp: add rows for new tokens, drop those of tokens rolled back.

        Raises
        ------
        ScopeError
            If cells of the sequence were removed behind the engine's back.
        """
        newest = int(labels[-1]) if labels.size else -1
        n = int(np.searchsorted(self.labels, newest, side="right"))
        if not np.array_equal(self.labels[:n], labels[:n]):
            raise ScopeError("cells of the sequence were changed outside the engine")
        new = np.broadcast_to(labels[n:], (*self.pos.shape[:2], labels.size - n))
        self.labels = labels.copy()
        self.pos = np.concatenate([self.pos[:, :, :n], new], axis=2)
        zeros = np.zeros((*self.scores.shape[:2], labels.size - n), self.scores.dtype)
        # as bytes: NumPy copies rows of several numbers one number at a time
        raw = np.dtype((np.void, zeros.dtype.itemsize))
        parts = [self.scores[:, :, :n].view(raw), zeros.view(raw)]
        self.scores = np.concatenate(parts, axis=2).view(zeros.dtype)

    def hold(self, row: np.dtype[Any]) -> None:
        """Keep scores of another type from now on; all begin at 0 then."""
        if self.scores.dtype != row:
            self.scores = np.zeros(self.scores.shape, row)

    def apply(self, plan: Plan) -> None:
        """Move and drop rows as `plan` does in the cache."""
        for name in ("pos", "scores"):
            rows = getattr(self, name)
            if plan.src.size:
                moved = np.take_along_axis(rows, plan.src, axis=2)
                np.put_along_axis(rows, plan.dst, moved, axis=2)
            # unlike an index, `take` leaves the rows of a head side by side in memory
            setattr(self, name, rows.take(plan.stay, axis=2))
        self.labels = self.labels[plan.stay]
        for layer in np.flatnonzero(plan.dead.any(axis=1)):
            self.pos[layer, :, plan.dead[layer]] = -1
            self.scores[layer, :, plan.dead[layer]] = 0

    @property
    def dead(self) -> NDArray[np.bool_]:
        """Rows of each layer that are dead, in all of its heads: bool (layer, n)."""
        return np.asarray((self.pos[:, :1] < 0).all(axis=1))

    def ranked(self, whole_cells: bool) -> tuple[NDArray[np.int32], NDArray[Any]]:
        """Positions and scores to choose by: of each head, or of whole cells as if of one head.

        The position of a whole cell is its label, its score the highest of all heads.
        """
        if not whole_cells:
            return self.pos, self.scores
        return self.labels[None, None], pooled(self.scores)

    def share_scores(self, n_group: int, to_heads: bool) -> None:
        """Turn scores of KV heads into such of query heads, in equal shares, or sum them up.

        Records begin anew: not all of their numbers are sums.
        """
        n_layer, n_head, n = self.scores.shape
        if self.scores.dtype.names:
            n_head = n_head * n_group if to_heads else n_head // n_group
            self.scores = np.zeros((n_layer, n_head, n), self.scores.dtype)
        elif to_heads:
            self.scores = np.repeat(self.scores / np.float32(n_group), n_group, axis=1)
        else:
            groups = self.scores.reshape(n_layer, n_head // n_group, n_group, n)
            self.scores = groups.sum(axis=2)


def pooled(scores: NDArray[Any]) -> NDArray[Any]:
    """Scores of whole cells: the maximum over layers and heads, (1, 1, n), number by number."""
    highest = numbers(scores).max(axis=(0, 1), keepdims=True)
    return of_numbers(highest, scores.dtype)


def numbers(scores: NDArray[Any]) -> NDArray[np.float32]:
    """Return the numbers of scores, float32: (layer, head, n), and of records a last axis more."""
    if not scores.dtype.names:
        return scores
    plain = np.ascontiguousarray(scores).view(np.float32)
    return plain.reshape(*scores.shape, len(scores.dtype.names))


def of_numbers(plain: NDArray[np.float32], row: np.dtype[Any]) -> NDArray[Any]:
    """Return the scores of which `numbers` made `plain`."""
    if not row.names:
        return plain
    return np.ascontiguousarray(plain).view(row).reshape(plain.shape[:-1])
