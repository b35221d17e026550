"""What the rows of one sequence hold: true positions and accumulated attention.

llama.cpp knows one position per cell. After per-head evictions a cell holds other tokens in other
heads, so the true position of each row, and its score, are kept here, by the position that labels
its cell. Cells are asked for anew each time: llama.cpp alone decides where a token goes.
"""

from __future__ import annotations

from dataclasses import dataclass

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
        float32 (layer, head, n), or (numbers, layer, head, n) for a policy that keeps several
        (`Policy.row`): what it made of the attention so far; by KV head, or by query head where
        whole cells are evicted.
    row
        The names of these numbers.
    """

    labels: NDArray[np.int32]
    pos: NDArray[np.int32]
    scores: NDArray[np.float32]
    row: tuple[str, ...] = ()

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
        zeros = np.zeros((*self.scores.shape[:-1], labels.size - n), np.float32)
        self.scores = np.concatenate([self.scores[..., :n], zeros], axis=-1)

    def hold(self, row: tuple[str, ...]) -> None:
        """Keep other numbers of each row from now on; all begin at 0 then."""
        if self.row != row:
            self.row = row
            self.scores = np.zeros(scores_shape(row, self.scores.shape[-3:]), np.float32)

    def apply(self, plan: Plan) -> None:
        """Move and drop rows as `plan` does in the cache."""
        for rows in (self.pos, *(self.scores if self.row else [self.scores])):
            if plan.src.size:
                moved = np.take_along_axis(rows, plan.src, axis=-1)
                np.put_along_axis(rows, plan.dst, moved, axis=-1)
        # unlike an index, `take` leaves the rows of a head side by side in memory
        self.pos = self.pos.take(plan.stay, axis=-1)
        self.scores = self.scores.take(plan.stay, axis=-1)
        self.labels = self.labels[plan.stay]
        for layer in np.flatnonzero(plan.dead.any(axis=1)):
            self.pos[layer, :, plan.dead[layer]] = -1
            self.scores[..., layer, :, plan.dead[layer]] = 0

    @property
    def dead(self) -> NDArray[np.bool_]:
        """Rows of each layer that are dead, in all of its heads: bool (layer, n)."""
        return np.asarray((self.pos[:, :1] < 0).all(axis=1))

    def ranked(self, whole_cells: bool) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """Positions and scores to choose by: of each head, or of whole cells as if of one head.

        The position of a whole cell is its label, its score the highest of all heads.
        """
        if not whole_cells:
            return self.pos, self.scores
        return self.labels[None, None], pooled(self.scores)

    def share_scores(self, n_group: int, to_heads: bool) -> None:
        """Turn scores of KV heads into such of query heads, in equal shares, or sum them up.

        Several numbers of a row begin anew: not all of them are sums.
        """
        n_layer, n_head, n = self.scores.shape[-3:]
        if self.row:
            n_head = n_head * n_group if to_heads else n_head // n_group
            self.scores = np.zeros(scores_shape(self.row, (n_layer, n_head, n)), np.float32)
        elif to_heads:
            self.scores = np.repeat(self.scores / np.float32(n_group), n_group, axis=1)
        else:
            groups = self.scores.reshape(n_layer, n_head // n_group, n_group, n)
            self.scores = groups.sum(axis=2)


def pooled(scores: NDArray[np.float32]) -> NDArray[np.float32]:
    """Scores of whole cells: the maximum over layers and heads, (1, 1, n), number by number."""
    return np.asarray(scores.max(axis=(-3, -2), keepdims=True))


def scores_shape(row: tuple[str, ...], shape: tuple[int, ...]) -> tuple[int, ...]:
    """Shape of the scores of rows, (layer, head, n), of which each has the numbers `row`."""
    return (len(row), *shape) if row else shape
