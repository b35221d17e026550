"""Writes a tiny random model of any architecture of the table."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
from gguf import GGUFWriter, LlamaFileType

from scope_cpp.reference.tiny_model import add_vocabulary, write_file
from tests.architectures.layout import tensor_shapes
from tests.architectures.table import ARCHITECTURES, PLAIN, Value
from tests.architectures.weights import random_weights

# tensors that no published model of any architecture needs
_OMITTED = r"^rope_freqs|\.(input_)?scale$|attn_(q|k|v|qkv)\.bias|dense_[23]"


def write_architecture(path: str | Path, arch: str, *, seed: int = 0, **keys: Value) -> Path:
    """Write a random model of an architecture of ``ARCHITECTURES``.

    Parameters
    ----------
    **keys
        Metadata besides that of the table, with ``__`` for a dot:
        ``attention__sliding_window=64``.

    Returns
    -------
    Path
        `path`.
    """
    entry = ARCHITECTURES[arch]
    given = {name.replace("__", "."): value for name, value in keys.items()}
    metadata = {**PLAIN, **entry.keys, **given}

    def describe(writer: GGUFWriter) -> None:
        writer.add_file_type(LlamaFileType.ALL_F32)
        for name, value in metadata.items():
            _add(writer, f"{arch}.{name}", value)
        add_vocabulary(writer)

    shapes = tensor_shapes(arch, describe)
    tied = "output.weight" not in shapes
    rng = np.random.default_rng(seed)
    writer = GGUFWriter(path, arch)
    describe(writer)
    for name, shape in shapes.items():
        if re.search(_OMITTED, name) or (entry.omit and re.search(entry.omit, name)):
            continue
        writer.add_tensor(name, random_weights(rng, name, shape, entry.peaky, tied=tied))
    write_file(writer)
    return Path(path)


def _add(writer: GGUFWriter, key: str, value: Value) -> None:
    if value is None:
        return
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    elif isinstance(value, str):
        writer.add_string(key, value)
    else:
        writer.add_array(key, list(value))
