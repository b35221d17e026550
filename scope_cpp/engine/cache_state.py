"""What a bounded cache counts, and all of it that another one can take over."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scope_cpp.engine.cache_stats import CacheStats
from scope_cpp.engine.context import Context
from scope_cpp.engine.ledger import Ledger
from scope_cpp.engine.marks import Mark
from scope_cpp.errors import ScopeError
from scope_cpp.native import kv_evict
from scope_cpp.native.library import llama_cpp
from scope_cpp.policies.scores.foresight import Asked


@dataclass(frozen=True)
class CacheState:
    """All of a cache but its capacity and policies; see `BoundedCache.state`.

    Attributes
    ----------
    native
        The cells, as the native side saves them.
    places
        Whether `native` has the cells' places and the recorded queries too.
    counters
        ``n_past``, ``n_prompt``, ``n_prompt_cells``, the tokens since the last selection, and the
        queries that are not scored yet.
    stats, ledger
        As of the cache.
    marks
        The marks, each with a copy of what it was.
    asked
        The prompt's queries that weigh the output.
    """

    native: NDArray[np.uint8]
    places: bool
    counters: tuple[int, ...]
    stats: CacheStats
    ledger: Ledger
    marks: tuple[tuple[Mark, Mark], ...]
    asked: Asked | None = None


def read_cells(context: Context, seq: int, places: bool) -> NDArray[np.uint8]:
    """Return the cells of a sequence, with their places and the recorded queries or without.

    Raises
    ------
    ScopeError
        If llama.cpp does not give them.
    """
    if places:
        return np.frombuffer(kv_evict.state_get(context.ptr, seq), np.uint8)
    buffer = np.empty(llama_cpp.llama_state_seq_get_size(context.ptr, seq), np.uint8)
    n = llama_cpp.llama_state_seq_get_data(context.ptr, _pointer(buffer), buffer.size, seq)
    if n != buffer.size:
        raise ScopeError("llama.cpp gives no state of the sequence: it can't be saved")
    return buffer


def write_cells(context: Context, seq: int, native: NDArray[np.uint8], places: bool) -> None:
    """Replace the cells of a sequence by those of `read_cells`.

    Raises
    ------
    ScopeError
        If they are of another model, damaged, or have no room.
    """
    if places:
        kv_evict.state_set(context.ptr, seq, native)
        return
    data = np.ascontiguousarray(native)
    n = llama_cpp.llama_state_seq_set_data(context.ptr, _pointer(data), data.size, seq)
    if n != data.size:
        raise ScopeError("the cells have no room in this context, or are of another model")


def _pointer(data: NDArray[np.uint8]) -> Any:
    return data.ctypes.data_as(ctypes.POINTER(ctypes.c_uint8))
