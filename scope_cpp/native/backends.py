"""ggml's backends where they are modules beside libllama, as in a wheel for any CPU.

``SCOPE_PORTABLE`` in CMakeLists.txt builds the CPU's backend once for each kind of CPU; ggml takes
the fastest that this one can run. Asked for nothing, llama.cpp would look for modules beside the
Python program and in the current folder, where anybody's library may lie.
"""

from __future__ import annotations

import ctypes
import os
import re
from pathlib import Path
from typing import Any

from scope_cpp.errors import ScopeError

# what backends call themselves, where that is not the name of their library
_OTHER_NAMES = {"hip": "rocm", "metal": "mtl"}

_LogCallback = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)


@_LogCallback
def _silent(level: int, text: bytes, _: int | None) -> None:
    """Take a line of the log that nobody asked for: which modules were loaded."""


def are_modules(lib: Any) -> bool:
    """Return whether libllama is linked with no backend, so that they are still to be loaded."""
    return not hasattr(lib, "ggml_backend_cpu_reg")


def load(lib: Any, folder: str | Path) -> None:
    """Load the modules in `folder`, of each backend the best one for this machine.

    Parameters
    ----------
    lib
        libllama, which finds the functions of ggml too.
    folder
        Where it lies.

    Raises
    ------
    ScopeError
        If nothing there runs on this CPU.
    """
    lib.ggml_backend_load_all_from_path.argtypes = [ctypes.c_char_p]
    lib.ggml_backend_load_all_from_path.restype = None
    lib.ggml_backend_dev_by_type.argtypes = [ctypes.c_int]
    lib.ggml_backend_dev_by_type.restype = ctypes.c_void_p
    lib.ggml_log_set(_silent, None)
    lib.ggml_backend_load_all_from_path(os.fsencode(folder))
    lib.ggml_log_set(None, None)
    if lib.ggml_backend_dev_by_type(0) is None:  # GGML_BACKEND_DEVICE_TYPE_CPU
        raise ScopeError(f"no library libggml-cpu-* in {folder} runs on this CPU")


def left_out(lib: Any, folder: str | Path) -> list[str]:
    """Return the names of modules in `folder` whose backend is not in use.

    ggml loads none of another version than its own, and none whose driver is missing, without a
    word; those of the CPU that are not the best one are no matter.
    """
    lib.ggml_backend_reg_count.restype = ctypes.c_size_t
    lib.ggml_backend_reg_get.restype = ctypes.c_void_p
    lib.ggml_backend_reg_get.argtypes = [ctypes.c_size_t]
    lib.ggml_backend_reg_name.restype = ctypes.c_char_p
    lib.ggml_backend_reg_name.argtypes = [ctypes.c_void_p]
    in_use = {
        lib.ggml_backend_reg_name(lib.ggml_backend_reg_get(i)).decode().lower()
        for i in range(lib.ggml_backend_reg_count())
    }
    names = []
    for path in sorted(Path(folder).glob("*ggml-*")):
        found = re.match(r"(?:lib)?ggml-([a-z]+)\W", path.name)
        kind = found[1] if found else "base"
        if kind not in ("base", "cpu") and _OTHER_NAMES.get(kind, kind) not in in_use:
            names.append(path.name)
    return names
