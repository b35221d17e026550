"""The devices that ggml can compute on."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Any

from scope_cpp.native.library import llama_cpp

# enum ggml_backend_dev_type, in its order
_KINDS = ("CPU", "GPU", "integrated GPU", "accelerator", "meta")


@dataclass(frozen=True)
class Device:
    """One device of a ggml backend.

    Attributes
    ----------
    name, description
        As ggml gives them, such as ``CUDA0``.
    kind
        ``CPU``, ``GPU``, ``integrated GPU``, ``accelerator`` or ``meta``.
    total_bytes, free_bytes
        Its memory, and what of it is free now.
    """

    name: str
    description: str
    kind: str
    total_bytes: int
    free_bytes: int


def devices() -> list[Device]:
    """Return all devices; none where the platform does not let us ask ggml through libllama."""
    lib = llama_cpp.llama_cpp._lib
    try:
        _declare(lib)
    except AttributeError:
        return []
    count = range(lib.ggml_backend_dev_count())
    return [_device(lib, lib.ggml_backend_dev_get(i)) for i in count]


def _declare(lib: Any) -> None:
    lib.ggml_backend_dev_count.restype = ctypes.c_size_t
    lib.ggml_backend_dev_get.argtypes = [ctypes.c_size_t]
    lib.ggml_backend_dev_get.restype = ctypes.c_void_p
    size_p = ctypes.POINTER(ctypes.c_size_t)
    lib.ggml_backend_dev_memory.argtypes = [ctypes.c_void_p, size_p, size_p]
    lib.ggml_backend_dev_memory.restype = None
    for name, restype in (
        ("name", ctypes.c_char_p),
        ("description", ctypes.c_char_p),
        ("type", ctypes.c_int),
    ):
        function = getattr(lib, f"ggml_backend_dev_{name}")
        function.argtypes, function.restype = [ctypes.c_void_p], restype


def _device(lib: Any, device: int) -> Device:
    free, total = ctypes.c_size_t(), ctypes.c_size_t()
    lib.ggml_backend_dev_memory(device, ctypes.byref(free), ctypes.byref(total))
    kind = lib.ggml_backend_dev_type(device)
    return Device(
        lib.ggml_backend_dev_name(device).decode(),
        lib.ggml_backend_dev_description(device).decode(errors="replace"),
        _KINDS[kind] if kind < len(_KINDS) else str(kind),
        total.value,
        free.value,
    )
