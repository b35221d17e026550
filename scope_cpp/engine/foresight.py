"""The prompt's last queries, read from the native side and asked again about each new cell."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from scope_cpp.engine.context import Context
from scope_cpp.native import kv_evict
from scope_cpp.policies.scores.foresight import Asked

# cells whose rows are read at once while the prompt is gone through
CHUNK = 256


def ask_prompt(
    context: Context,
    seq: int,
    n_query: int,
    pos: int,
    ids: NDArray[np.int32],
    dead: NDArray[np.bool_],
) -> Asked:
    """Ask the last `n_query` recorded queries, turned to position `pos`, about the cells `ids`.

    Rows that are `dead`, bool (layer, n), are left out.
    """
    ptr = context.ptr
    queries = kv_evict.queries(ptr, seq, n_query, pos)
    asked = Asked.anew(queries, kv_evict.head_size(ptr, values=True))
    for first in range(0, ids.size, CHUNK):
        chunk = slice(first, first + CHUNK)
        asked = asked.with_prompt(*_rows(context, seq, ids[chunk]), dead[:, chunk])
    return asked


def weigh(
    asked: Asked, context: Context, seq: int, ids: NDArray[np.int32], by_head: bool
) -> tuple[NDArray[np.float32], Asked]:
    """Weigh the new cells `ids`; see `Asked.weigh`.

    Returns
    -------
    weights
        float32 (layer, query head, n), or the highest of a KV group.
    asked
        With these cells gone through.
    """
    keys, values = _rows(context, seq, ids)
    weights, asked = asked.weigh(keys, values)
    if not by_head:
        n_layer, n_head_kv = keys.shape[:2]
        weights = weights.reshape(n_layer, n_head_kv, -1, ids.size).max(axis=2)
    return weights, asked


def _rows(
    context: Context, seq: int, ids: NDArray[np.int32]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    ptr = context.ptr
    return kv_evict.rows(ptr, seq, ids), kv_evict.rows(ptr, seq, ids, values=True)
