"""The bytes of a saved sequence, taken apart as ``llama-kv-evict-state.cpp`` lays them out."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

U8 = npt.NDArray[np.uint8]

HEADER = struct.Struct("<12I2Q")
# fields of the header, in order
FIELDS = (
    *("magic", "form", "n_layer", "n_head", "n_head_kv", "head_k", "head_v", "types", "v_trans"),
    *("n_window", "n_cells", "head", "size", "hash"),
)


@dataclass
class State:
    """Views into one buffer: writing to them changes the state.

    Attributes
    ----------
    data : uint8 (bytes,)
        All of it.
    header : dict
        By the names of ``FIELDS``; a copy.
    cells : int32 (n,)
        Cells that the rows lie in, ascending.
    meta : int32 (n, 3)
        Position, number of sequences and sequence of each row.
    k : list of uint8 (n, KV head, bytes)
        By layer.
    v : list of uint8 (n, KV head, bytes), or of uint16 or uint32 (n, KV head, values)
        By layer; values where V lies transposed.
    tail : int
        Where the recorded queries begin.
    n_summed : int
        Queries whose weights were added up while they were computed.
    """

    data: U8
    header: dict[str, int]
    cells: npt.NDArray[np.int32]
    meta: npt.NDArray[np.int32]
    k: list[U8]
    v: list[npt.NDArray[Any]]
    tail: int
    n_summed: int

    def sealed(self) -> bytes:
        """Return all of it, with the hash of what it now is."""
        return seal(self.data.tobytes())


def seal(data: bytes) -> bytes:
    """Put the right size and hash (FNV-1a over 64-bit words) into a state's header."""
    at = HEADER.size - 16
    head = data[:at] + struct.pack("<Q", len(data))
    value = 0xCBF29CE484222325
    for part in (head, data[HEADER.size :]):
        words = np.frombuffer(part + bytes(-len(part) % 8), np.uint64)
        for word in words.tolist():
            value = (value ^ word) * 0x100000001B3 % 2**64
    return head + struct.pack("<Q", value) + data[HEADER.size :]


def parse(raw: bytes) -> State:
    """Take a state apart; the views lie in a copy of `raw`."""
    data = np.frombuffer(raw, np.uint8).copy()
    header = dict(zip(FIELDS, HEADER.unpack_from(raw), strict=True))
    n, at = header["n_cells"], HEADER.size
    cells = data[at : at + 4 * n].view(np.int32)
    at += 4 * n
    assert struct.unpack_from("<2I", raw, at) == (1, n), "one stream of n cells"
    at += 8
    meta = data[at : at + 12 * n].view(np.int32).reshape(n, 3)
    at += 12 * n
    v_trans = header["v_trans"]
    assert struct.unpack_from("<2I", raw, at) == (v_trans, header["n_layer"])
    at += 8
    k, v = [], []
    for layer in range(2 * header["n_layer"]):
        if layer < header["n_layer"] or not v_trans:
            _, row = struct.unpack_from("<iQ", raw, at)
            at += 12
            rows = data[at : at + n * row].reshape(n, header["n_head_kv"], -1)
        else:
            _, size, row = struct.unpack_from("<i2I", raw, at)
            at, row = at + 12, row * size
            values = data[at : at + n * row].view(f"u{size}")
            rows = values.reshape(header["n_head_kv"], -1, n).transpose(2, 0, 1)
        at += n * row
        (k if layer < header["n_layer"] else v).append(rows)
    n_query = 4 * header["n_window"] * (1 + header["n_layer"] * header["n_head"] * header["head_k"])
    n_summed = struct.unpack_from("<I", raw, at + n_query)[0] if v_trans else 0
    return State(data, header, cells, meta, k, v, at, n_summed)
