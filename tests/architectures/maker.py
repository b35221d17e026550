"""Writes a tiny random model of any architecture of the table."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
from gguf import GGMLQuantizationType, GGUFWriter, LlamaFileType
from gguf.quants import quantize

from scope_cpp.reference.tiny_model import Value, add_value, add_vocabulary, write_file
from tests.architectures.layout import tensor_shapes
from tests.architectures.table import ARCHITECTURES, PLAIN, SEEDS
from tests.architectures.weights import output_weights, random_weights

_QUANTIZED_ONLY = r"\.(input_)?scale$"  # scales that tensors of some types have besides
_MATRICES = ("_proj.weight", "_out.weight", "_in.weight", "_q.weight", "_k.weight", "_v.weight",
             "_output.weight", "_gate.weight", "_up.weight", "_down.weight", "_qkv.weight",
             "token_embd.weight", "output.weight")  # fmt: skip
_UNPREFIXED = ("tokenizer.", "xielu.")


def write_architecture(
    path: str | Path,
    arch: str,
    *,
    seed: int | None = None,
    quantized: str | None = None,
    n_vocab: int = 0,
    **keys: Value,
) -> Path:
    """Write a random model of one of ``ARCHITECTURES``.

    Parameters
    ----------
    seed
        Of the weights, in place of the table's.
    quantized
        Type of the matrices that layers multiply by, such as ``Q8_0``; ``None``: float32.
    n_vocab
        Least number of tokens, in place of the table's.
    **keys
        Metadata in place of the table's, with ``__`` for a dot: ``attention__sliding_window=64``.

    Returns
    -------
    Path
        `path`.
    """
    entry = ARCHITECTURES[arch]
    given = {key.replace("__", "."): value for key, value in keys.items()}
    metadata = {**PLAIN, **entry.keys, **given}
    file_arch = entry.arch or arch

    def describe(writer: GGUFWriter) -> None:
        writer.add_file_type(LlamaFileType.ALL_F32)
        for key, value in metadata.items():
            add_value(writer, key if key.startswith(_UNPREFIXED) else f"{file_arch}.{key}", value)
        add_vocabulary(writer, n_vocab or entry.n_vocab)

    shapes = {
        name: shape
        for name, shape in tensor_shapes(file_arch, describe).items()
        if _wanted(name, entry.omit, entry.keep)
    }
    rng = np.random.default_rng(SEEDS.get(arch, 0) if seed is None else seed)
    output = "output.weight" if "output.weight" in shapes else "token_embd.weight"
    writer = GGUFWriter(path, file_arch)
    describe(writer)
    for name, shape in shapes.items():
        if name == output:
            weights = output_weights(rng, shape)
        else:
            weights = random_weights(rng, name, shape, peaky=entry.peaky, embedding=entry.embedding)
        if quantized and name.endswith(_MATRICES) and len(shape) == 2 and shape[1] % 32 == 0:
            kind = GGMLQuantizationType[quantized]
            writer.add_tensor(name, quantize(weights, kind), raw_dtype=kind)
        else:
            writer.add_tensor(name, weights)
    write_file(writer)
    return Path(path)


def _wanted(name: str, omit: str, keep: str) -> bool:
    if keep and re.search(keep, name):
        return True
    return not re.search(f"{_QUANTIZED_ONLY}|{omit}" if omit else _QUANTIZED_ONLY, name)
