"""Evictions with another set of tokens for every head, and a record of what each row holds."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from scope_cpp.native import kv_evict

Int32 = npt.NDArray[np.int32]
Bool = npt.NDArray[np.bool_]

NO_CELLS = np.zeros(0, np.int32)


def no_moves(ctx: object) -> Int32:
    return np.zeros((kv_evict.n_layer(ctx), kv_evict.n_head_kv(ctx), 0), np.int32)


def remove_cells(ctx: object, cells: Iterable[int], seq: int = 0) -> None:
    """Take cells from a sequence, the same for all heads."""
    kv_evict.apply(ctx, seq, no_moves(ctx), no_moves(ctx), np.array(list(cells), np.int32))


class Rows:
    """Which token's K and V lie in every cell of one sequence, for each layer and KV head."""

    def __init__(self, ctx: object, seq: int = 0) -> None:
        self.ctx, self.seq = ctx, seq
        self.shape = kv_evict.n_layer(ctx), kv_evict.n_head_kv(ctx)
        self.held = np.full((*self.shape, kv_evict.n_cells(ctx)), -1, np.int32)

    def note_decoded(self) -> None:
        """Take note of the newest tokens: a cell without a record holds its own token."""
        pos, ids, _ = kv_evict.cells(self.ctx, self.seq)
        fresh = self.held[0, 0, ids] < 0
        self.held[:, :, ids[fresh]] = pos[fresh]

    def evict(self, keep: Bool) -> None:
        """Keep the tokens of true position p where ``keep[layer, head, p]``.

        Every head keeps equally many and all keep the newest one. The cells that stay are those
        of the lowest positions and the newest: rows that a head keeps elsewhere are moved there.
        """
        _, ids, _ = kv_evict.cells(self.ctx, self.seq)
        n_keep = int(keep[0, 0].sum())
        stay = np.concatenate([ids[: n_keep - 1], ids[-1:]])
        leave = ids[n_keep - 1 : -1].copy()
        pairs = [
            self._pairs(layer, head, keep[layer, head], stay, leave)
            for layer, head in np.ndindex(self.shape)
        ]
        n_move = max(len(src) for src, _ in pairs)
        # what fills up the shorter lists does nothing: the newest token's cell onto itself
        fill = [[np.append(x, [ids[-1]] * (n_move - len(x))) for x in pair] for pair in pairs]
        moves = np.array(fill, np.int32).reshape(*self.shape, 2, n_move)
        src, dst = (np.ascontiguousarray(moves[:, :, i]) for i in (0, 1))
        kv_evict.apply(self.ctx, self.seq, src, dst, leave)
        self._record(src, dst, leave)

    def _pairs(
        self, layer: int, head: int, keep: Bool, stay: Int32, leave: Int32
    ) -> tuple[Int32, Int32]:
        held = self.held[layer, head]
        return leave[keep[held[leave]]], stay[~keep[held[stay]]]

    def _record(self, src: Int32, dst: Int32, leave: Int32) -> None:
        moved = np.take_along_axis(self.held, src, axis=2)
        np.put_along_axis(self.held, dst, moved, axis=2)
        self.held[:, :, leave] = -1


def originals(ctx: object) -> Int32:
    """Which of a layer's own KV heads each one of the arrays is: (layer, KV head)."""
    return (np.arange(kv_evict.n_head_kv(ctx)) % kv_evict.own_heads(ctx)[:, 1:]).astype(np.int32)


def as_originals(ctx: object, by_head: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Give doubles what their originals have: (layer, KV head, n)."""
    return np.take_along_axis(by_head, originals(ctx)[:, :, None], axis=1)


def random_keep(held: Int32, n_keep: int, n_recent: int, rng: np.random.Generator) -> Bool:
    """Mark positions to keep: the `n_recent` newest and random others, another set for each head.

    Parameters
    ----------
    held : int32 (layer, KV head, row)
        True positions of the rows that the heads have.
    """
    size = int(held.max()) + 1
    keep = np.zeros((*held.shape[:2], size), np.bool_)
    keep[:, :, size - n_recent :] = True
    for layer, head in np.ndindex(held.shape[:2]):
        old = held[layer, head][held[layer, head] < size - n_recent]
        keep[layer, head, rng.choice(old, n_keep - n_recent, replace=False)] = True
    return keep
