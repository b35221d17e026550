"""A GGUF file taken apart, so that any of its parts can be made wrong, and put together again.

Nothing is checked: what the `gguf` package would refuse to write is what this is for.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import Any, NamedTuple

STRING, ARRAY = 8, 9
SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q"}
SCALARS[12] = "d"
U32, I32, F32, BOOL, U64 = 4, 5, 6, 7, 10

_ALIGNMENT = 32


class Array(NamedTuple):
    """A value that is an array: the type of its elements, and those."""

    kind: int
    items: list[Any]


@dataclass
class Pair:
    """A key of the header, its type and its value."""

    key: bytes
    kind: int
    value: Any


@dataclass
class Tensor:
    """What the header says of a tensor."""

    name: bytes
    dims: list[int]
    kind: int
    offset: int


@dataclass
class Gguf:
    """A file; `n_pairs` and `n_tensors` are what it claims, where that is not what it has."""

    version: int
    pairs: list[Pair]
    tensors: list[Tensor]
    data: bytes
    n_pairs: int | None = None
    n_tensors: int | None = None
    header_size: int = field(default=0, compare=False)

    def find(self, key: str) -> Pair | None:
        """Return the pair of a key."""
        return next((pair for pair in self.pairs if pair.key == key.encode()), None)

    def set(self, key: str, kind: int, value: Any) -> None:
        """Replace a key's value, or add it."""
        self.remove(key)
        self.pairs.append(Pair(key.encode(), kind, value))

    def remove(self, key: str) -> None:
        """Remove a key."""
        self.pairs = [pair for pair in self.pairs if pair.key != key.encode()]

    @property
    def architecture(self) -> str:
        """Prefix of the architecture's own keys."""
        pair = self.find("general.architecture")
        return pair.value.decode() if pair is not None else "llama"


def parse(data: bytes) -> Gguf:
    """Take a good file apart."""
    reader = _Reader(data)
    version = reader.number("I")
    n_tensors, n_pairs = reader.number("Q"), reader.number("Q")
    pairs = [reader.pair() for _ in range(n_pairs)]
    tensors = [reader.tensor() for _ in range(n_tensors)]
    start = -(-reader.at // _ALIGNMENT) * _ALIGNMENT
    return Gguf(version, pairs, tensors, data[start:], header_size=reader.at)


class _Reader:
    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 4

    def number(self, form: str) -> Any:
        (value,) = struct.unpack_from(f"<{form}", self.data, self.at)
        self.at += struct.calcsize(f"<{form}")
        return value

    def string(self) -> bytes:
        n = self.number("Q")
        self.at += n
        return self.data[self.at - n : self.at]

    def value(self, kind: int) -> Any:
        if kind == ARRAY:
            inner, n = self.number("I"), self.number("Q")
            return Array(inner, [self.value(inner) for _ in range(n)])
        return self.string() if kind == STRING else self.number(SCALARS[kind])

    def pair(self) -> Pair:
        key, kind = self.string(), self.number("I")
        return Pair(key, kind, self.value(kind))

    def tensor(self) -> Tensor:
        name = self.string()
        dims = [self.number("Q") for _ in range(self.number("I"))]
        return Tensor(name, dims, self.number("I"), self.number("Q"))


def encode(file: Gguf) -> bytes:
    """Put a file together; numbers that do not fit their type wrap around."""
    n_tensors = len(file.tensors) if file.n_tensors is None else file.n_tensors
    n_pairs = len(file.pairs) if file.n_pairs is None else file.n_pairs
    out = bytearray(b"GGUF" + _number("I", file.version))
    out += _number("Q", n_tensors) + _number("Q", n_pairs)
    for pair in file.pairs:
        out += _string(pair.key) + _number("I", pair.kind) + _value(pair.kind, pair.value)
    for tensor in file.tensors:
        out += _string(tensor.name) + _number("I", len(tensor.dims))
        out += b"".join(_number("Q", n) for n in tensor.dims)
        out += _number("I", tensor.kind) + _number("Q", tensor.offset)
    out += bytes(-len(out) % _ALIGNMENT)
    return bytes(out + file.data)


def _number(form: str, value: Any) -> bytes:
    if form in "fd?":
        return struct.pack(f"<{form}", value)
    size = struct.calcsize(f"<{form}")
    return (int(value) % (1 << 8 * size)).to_bytes(size, "little")


def _string(value: bytes) -> bytes:
    return _number("Q", len(value)) + value


def _value(kind: int, value: Any) -> bytes:
    if kind == ARRAY:
        items = b"".join(_value(value.kind, item) for item in value.items)
        return _number("I", value.kind) + _number("Q", len(value.items)) + items
    return _string(value) if kind == STRING else _number(SCALARS[kind], value)
