"""Which tensors llama.cpp wants of a model, by its own word.

``llama_model_init_from_user`` builds a model from its metadata alone and asks for the contents of
every tensor that the architecture has, so nothing here needs to know any of them.
"""

from __future__ import annotations

import ctypes
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gguf import GGUFWriter

from scope_cpp.native.library import llama_cpp
from scope_cpp.reference.tiny_model import write_file

Shape = tuple[int, ...]


class _Params(ctypes.Structure):
    """struct gguf_init_params."""

    _fields_ = [("no_alloc", ctypes.c_bool), ("ctx", ctypes.c_void_p)]


def tensor_shapes(arch: str, describe: Callable[[GGUFWriter], object]) -> dict[str, Shape]:
    """Shape, in NumPy's order, of every tensor that a model can have.

    Parameters
    ----------
    describe
        Adds the model's metadata to a writer.

    Raises
    ------
    ValueError
        If llama.cpp makes no model of the metadata; its log on stderr says why.
    """
    base = ctypes.CDLL(llama_cpp.llama_cpp._lib._name)  # finds the symbols of libggml-base too
    name_of = base.ggml_get_name
    name_of.restype, name_of.argtypes = ctypes.c_char_p, [ctypes.c_void_p]
    shapes: dict[str, Shape] = {}

    def note(tensor: int, _: int | None) -> None:
        # struct ggml_tensor: type, buffer, then ne[4]
        sizes = list((ctypes.c_int64 * 4).from_address(tensor + 16))
        while len(sizes) > 1 and sizes[-1] == 1:
            sizes.pop()
        shapes[name_of(tensor).decode()] = tuple(reversed(sizes))

    metadata = _metadata(base, arch, describe)
    callback = llama_cpp.llama_cpp.llama_model_set_tensor_data_t(note)
    llama_cpp.llama_backend_init()
    model: Any = llama_cpp.llama_model_init_from_user(
        metadata, callback, None, llama_cpp.llama_model_default_params()
    )
    base.gguf_free(metadata)
    if not model:
        raise ValueError(f"llama.cpp makes no model of this metadata of {arch}")
    llama_cpp.llama_model_free(model)
    return shapes


def _metadata(
    base: ctypes.CDLL, arch: str, describe: Callable[[GGUFWriter], object]
) -> ctypes.c_void_p:
    read, free = base.gguf_init_from_file, base.gguf_free
    read.restype, read.argtypes = ctypes.c_void_p, [ctypes.c_char_p, _Params]
    free.restype, free.argtypes = None, [ctypes.c_void_p]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "metadata.gguf"
        writer = GGUFWriter(path, arch)
        describe(writer)
        write_file(writer)
        return ctypes.c_void_p(read(str(path).encode(), _Params(True, None)))
