"""Types in which the KV cache can be stored, and the bytes that one cell takes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from scope_cpp.errors import UsageError
from scope_cpp.near import did_you_mean


class KVType(NamedTuple):
    """A ggml type: its number, values per block and bytes per block."""

    ggml_type: int
    block: int
    n_bytes: int


# numbers of enum ggml_type, block sizes of ggml-common.h
KV_TYPES = {
    "f32": KVType(0, 1, 4),
    "f16": KVType(1, 1, 2),
    "bf16": KVType(30, 1, 2),
    "q8_0": KVType(8, 32, 34),
    "q4_0": KVType(2, 32, 18),
    "q4_1": KVType(3, 32, 20),
    "q5_0": KVType(6, 32, 22),
    "q5_1": KVType(7, 32, 24),
    "iq4_nl": KVType(20, 32, 18),
}


class CellLayer(NamedTuple):
    """What a cell has in one layer: the layer's number, its KV heads, the values of their rows."""

    layer: int
    n_head_kv: int
    head_dim_k: int
    head_dim_v: int


class KVShape(Protocol):
    """What `bytes_per_cell` needs to know of a model."""

    @property
    def cell_layers(self) -> Sequence[CellLayer]:
        """The layers in which a cell has rows."""


def kv_type(name: str) -> KVType:
    """Return the KV cache type called `name`.

    Raises
    ------
    UsageError
        When llama.cpp has no KV cache of that type.
    """
    try:
        return KV_TYPES[name.lower()]
    except KeyError:
        near = did_you_mean(name, KV_TYPES)
        raise UsageError(
            f"unknown KV cache type {name!r}{near}: one of {', '.join(KV_TYPES)}"
        ) from None


def needs_flash(type_v: str) -> bool:
    """Whether llama.cpp stores a V of this type for flash attention only: one in blocks."""
    return kv_type(type_v).block > 1


def bytes_per_cell(model: KVShape, type_k: str = "f16", type_v: str = "f16") -> int:
    """Return the bytes that one cell takes in the K and V of all its layers.

    Raises
    ------
    UsageError
        For an unknown type, or one whose block does not divide the head size (llama.cpp would
        refuse the context without saying why to its caller).
    """
    return sum(
        layer.n_head_kv
        * (_row_bytes(type_k, layer.head_dim_k) + _row_bytes(type_v, layer.head_dim_v))
        for layer in model.cell_layers
    )


def _row_bytes(name: str, head_dim: int) -> int:
    kind = kv_type(name)
    if head_dim % kind.block:
        raise UsageError(
            f"KV cache type {name} stores blocks of {kind.block} values, which do not divide this "
            f"model's head size of {head_dim}: use f16, bf16 or f32"
        )
    return head_dim // kind.block * kind.n_bytes
