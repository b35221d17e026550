"""From "which rows each head keeps" to "which rows are copied and which cells are freed".

llama.cpp frees a cell for all layers and heads at once, while every KV head keeps rows of its own.
So the cells that the fewest heads want are freed, and each head first copies what it keeps of them
over rows that it evicts elsewhere. Cells whose row every head keeps (the recent window, the prompt
under SCOPE) are neither freed nor written.

The heads of a layer keep equally many rows. A layer that keeps fewer than another one has dead rows
in some of the cells that stay, the same cells for all of its heads: nothing attends to them, and
they are the first places that are written when the layer keeps more.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scope_cpp.errors import ScopeError
from scope_cpp.policies.select import count

# moves are padded to a multiple of this, so that the native graph is seldom rebuilt
MOVES_MULTIPLE = 8


@dataclass(frozen=True)
class Plan:
    """An eviction, in indices of rows (columns of `keep`).

    Attributes
    ----------
    src, dst
        int32 (layer, KV head, move): row `src` is copied over row `dst`; equal where there is
        nothing to do.
    stay
        int32 (m,): columns that remain, ascending.
    free
        int32 (n - m,): columns whose cells are freed, ascending.
    dead
        bool (layer, m): which of the columns that remain hold no row of the layer then.
    """

    src: NDArray[np.int32]
    dst: NDArray[np.int32]
    stay: NDArray[np.int32]
    free: NDArray[np.int32]
    dead: NDArray[np.bool_]

    @property
    def first(self) -> int | None:
        """First column that is freed, copied over, or dead in some layer; None if none is."""
        dead = self.stay[self.dead.any(axis=0)]
        changed = np.concatenate([self.free, self.dst[self.dst != self.src], dead])
        return int(changed.min()) if changed.size else None


def plan_eviction(keep: NDArray[np.bool_], *, uneven: bool = False) -> Plan:
    """Plan the moves that realize `keep` with few copies; with the fewest if it is even.

    Parameters
    ----------
    keep
        bool (layer, KV head, n): rows to keep, the same number for every head; the last column,
        the newest token, is kept by all.
    uneven
        Layers may keep different numbers.

    Raises
    ------
    ScopeError
        If heads keep different numbers of rows that may not.
    """
    n_layer, _, n = keep.shape
    counts = count(keep)
    n_keep = int(counts.max())
    if not (counts == (counts[:, :1] if uneven else n_keep)).all():
        raise ScopeError("the policy keeps a different number of cells in different heads")
    wanted = keep.sum(axis=1, dtype=np.int32)
    free = np.sort(np.argsort(wanted.sum(axis=0), kind="stable")[: n - n_keep]).astype(np.int32)
    stay = np.setdiff1d(np.arange(n, dtype=np.int32), free, assume_unique=True)
    # columns in which a layer has no row
    without = np.zeros((n_layer, n), np.bool_)
    without[:, free] = True
    for layer in np.flatnonzero(counts[:, 0] < n_keep):
        order = np.argsort(wanted[layer, stay], kind="stable")
        without[layer, stay[order[: n_keep - counts[layer, 0]]]] = True
    src, dst = _match(keep & without[:, None], ~(keep | without[:, None]))
    return Plan(src, dst, stay, free, without.take(stay, axis=1))


def _match(
    leaving: NDArray[np.bool_], holes: NDArray[np.bool_]
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Pair each row that must move with a hole of the same head, in order; pad with no-ops."""
    n_layer, n_head, n = leaving.shape
    n_move = count(leaving)
    most = -(-int(n_move.max(initial=0)) // MOVES_MULTIPLE) * MOVES_MULTIPLE
    # a copy of the newest row onto itself does nothing: no head moves or overwrites it
    src = np.full((n_layer, n_head, most), n - 1, np.int32)
    dst = src.copy()
    pairs = np.arange(most) < n_move[..., None]
    src[pairs] = np.flatnonzero(leaving) % n
    dst[pairs] = np.flatnonzero(holes) % n
    return src, dst
