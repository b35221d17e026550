"""Copies of a model's file with other metadata or tensors."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from gguf import GGUFReader, GGUFValueType, GGUFWriter

from scope_cpp.reference.tiny_model import write_file

Tensors = dict[str, npt.NDArray[Any]]


def read_tensors(path: Path) -> Tensors:
    """Every tensor of a file, in its order."""
    return {tensor.name: np.array(tensor.data) for tensor in GGUFReader(path).tensors}


def copy_file(path: Path, out: Path, tensors: Tensors, **keys: int) -> Path:
    """Write a file with the metadata of `path`, but for numbers of the architecture, `keys`."""
    reader = GGUFReader(path)
    arch = reader.fields["general.architecture"].contents()
    writer = GGUFWriter(out, arch)
    given = {f"{arch}.{name}": value for name, value in keys.items()}
    for name, field in reader.fields.items():
        if not name.startswith("GGUF.") and name not in ("general.architecture", *given):
            of_items = field.types[1] if len(field.types) > 1 else None
            writer.add_key_value(name, field.contents(), field.types[0], of_items)
    for name, value in given.items():
        writer.add_key_value(name, value, GGUFValueType.UINT32)
    for name, values in tensors.items():
        writer.add_tensor(name, values)
    write_file(writer)
    return out


def with_draft_layer(path: Path, out: Path) -> Path:
    """Add a layer that guesses later tokens (MTP), as files of Qwen3.5 and GLM-4.5 have one."""
    tensors = read_tensors(path)
    n_layer = 1 + max(int(name.split(".")[1]) for name in tensors if name.startswith("blk."))
    size = tensors["token_embd.weight"].shape[1]
    last = max(name for name in tensors if name.endswith("attn_q.weight")).rpartition("attn_q")[0]
    added = dict(_renamed(tensors, last, f"blk.{n_layer}."))
    added[f"blk.{n_layer}.nextn.eh_proj.weight"] = np.ones((size, 2 * size), np.float32)
    for name in ("enorm", "hnorm", "shared_head_norm"):
        added[f"blk.{n_layer}.nextn.{name}.weight"] = np.ones(size, np.float32)
    return copy_file(path, out, tensors | added, block_count=n_layer + 1, nextn_predict_layers=1)


def draft_alone(path: Path, out: Path) -> Path:
    """Leave the layers out that `with_draft_layer` does not add."""
    tensors = read_tensors(path)
    drafts = {name.split(".nextn.")[0] + "." for name in tensors if ".nextn." in name}
    kept = {
        name: values
        for name, values in tensors.items()
        if not name.startswith("blk.") or name.startswith(tuple(drafts))
    }
    return copy_file(path, out, kept)


def _renamed(tensors: Tensors, old: str, new: str) -> Iterator[tuple[str, npt.NDArray[Any]]]:
    for name, values in tensors.items():
        if name.startswith(old):
            yield new + name.removeprefix(old), values
