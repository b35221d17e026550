"""From "which rows each head keeps" to "which rows are copied and which cells are freed".

Every layer and KV head keeps the same number of rows, but not the same ones, while llama.cpp frees
a cell for all layers and heads at once. So the cells that the fewest heads want are freed, and each
head first copies what it keeps of them over rows that it evicts elsewhere. Cells whose row every
head keeps (the recent window, the prompt under SCOPE) are neither freed nor written.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scope_cpp.errors import ScopeError
from scope_cpp.policies.select import count

# moves are padded to a multiple of this, so that the native graph is seldom rebuilt
MOVES_MULTIPLE = 16


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
    """

    src: NDArray[np.int32]
    dst: NDArray[np.int32]
    stay: NDArray[np.int32]
    free: NDArray[np.int32]

    @property
    def first(self) -> int:
        """First column that is freed or copied over, if any is freed."""
        moved = self.dst[self.dst != self.src]
        return int(min(self.free[0], moved.min())) if moved.size else int(self.free[0])


def plan_eviction(keep: NDArray[np.bool_]) -> Plan:
    """Plan the moves that realize `keep` with the fewest copies.

    Parameters
    ----------
    keep
        bool (layer, KV head, n): rows to keep, the same number for every head; the last column,
        the newest token, is kept by all.

    Raises
    ------
    ScopeError
        If heads keep different numbers of rows, which moves alone can't express.
    """
    n = keep.shape[2]
    counts = count(keep)
    n_keep = int(counts.flat[0])
    if not (counts == n_keep).all():
        raise ScopeError("the policy keeps a different number of cells in different heads")
    wanted = keep.sum(axis=(0, 1), dtype=np.int32)
    free = np.sort(np.argsort(wanted, kind="stable")[: n - n_keep]).astype(np.int32)
    freed = np.zeros(n, np.bool_)
    freed[free] = True
    src, dst = _match(keep & freed, ~(keep | freed))
    return Plan(src, dst, np.flatnonzero(~freed).astype(np.int32), free)


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
