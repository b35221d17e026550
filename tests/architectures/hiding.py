"""Bounded contexts of tiny models, and what they must compute: a full cache with hidden cells."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from scope_cpp.native import kv_evict
from scope_cpp.native.library import llama_cpp
from tests.native.harness import AttentionLog, Session, random_tokens
from tests.native.heads import Rows, as_originals, random_keep

ATTENTION = {"flash": {"flash": True}, "plain": {"flash": False, "kv": "f32"}}
every_attention = pytest.mark.parametrize("attention", ATTENTION)

N_PROMPT, N_OUTPUT, INTERVAL = 75, 60, 20
N_KEPT, N_RECENT, N_QUERIES = 40, 12, 8
TOKENS = random_tokens(N_PROMPT + N_OUTPUT + INTERVAL)

# of the logits, relative: flash attention rounds to f16, the plain one in f32 does not
TOLERANCE = {"flash": 2e-2, "plain": 1e-3}


@contextmanager
def opened(
    path: Path, attention: str = "flash", n_cells: int = 256, n_seq: int = 1, **more: Any
) -> Iterator[Session]:
    """A context as the engine makes it."""
    fields = {"n_ubatch": 32, **ATTENTION[attention], **more}
    kv_evict.make_bounded(True)
    try:
        session = Session(path, n_cells, n_seq=n_seq, more={"swa_full": False}, **fields)
    finally:
        kv_evict.make_bounded(False)
    with session:
        yield session


def begin(session: Session, seq: int = 0) -> Rows:
    """Decode a prompt in several batches."""
    kv_evict.init(session.ctx, N_QUERIES)
    return read(session, seq)


def read(session: Session, seq: int = 0) -> Rows:
    for start in range(0, N_PROMPT, 30):
        session.decode(TOKENS[start : min(start + 30, N_PROMPT)], start, seq)
    return Rows(session.ctx, seq)


def evict(rows: Rows, seed: int) -> npt.NDArray[np.bool_]:
    """Keep another set of rows in every head; return which of all positions."""
    rows.note_decoded()
    ids = kv_evict.cells(rows.ctx, rows.seq)[1]
    keep = random_keep(rows.held[:, :, ids], N_KEPT, N_RECENT, np.random.default_rng(seed))
    keep = as_originals(rows.ctx, keep)
    rows.evict(keep)
    return keep


class Masked(AttentionLog):
    """Attention of a full cache, with other cells hidden from every KV head of some layers.

    Its weights are taken away after the softmax, and the others made as large as if they had not
    been there, which is right with sinks too.
    """

    def __init__(self, readers: dict[int, int]) -> None:
        super().__init__()
        self._readers = readers
        base = ctypes.CDLL(llama_cpp.llama_cpp._lib._name)
        self._write = base.ggml_backend_tensor_set
        self._write.restype = None
        self._write.argtypes = [ctypes.c_void_p] * 2 + [ctypes.c_size_t] * 2
        self.hidden: dict[int, npt.NDArray[np.bool_]] = {}  # layer: (KV head, cell)

    def hide(self, ctx: object, keep: npt.NDArray[np.bool_]) -> None:
        """Hide what is not kept, (layer, KV head, cell)."""
        layers, own = kv_evict.layer_ids(ctx).tolist(), kv_evict.own_heads(ctx)[:, 1]
        for layer, n, kept in zip(layers, own, keep, strict=True):
            self.hidden[layer] = self.hidden[self._readers.get(layer, layer)] = ~kept[:n]

    def watch(self, tensor: int, ask: bool, more: int | None) -> bool:
        wanted = super().watch(tensor, ask, more)
        layer = int(self._name(tensor).decode().rpartition("-")[2]) if wanted and not ask else -1
        if layer in self.hidden:
            weights = self._parts[layer][-1].copy()
            n_head_kv, n = self.hidden[layer].shape
            hidden = np.zeros((n_head_kv, weights.shape[2]), np.bool_)
            hidden[:, :n] = self.hidden[layer]
            groups = weights.reshape(n_head_kv, -1, *weights.shape[1:])
            lost = (groups * hidden[:, None, None]).sum(axis=-1, keepdims=True)
            groups *= ~hidden[:, None, None] / (1 - lost)
            self._write(tensor, weights.ctypes.data, 0, weights.nbytes)
        return wanted
