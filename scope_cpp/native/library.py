"""Loads the llama.cpp bindings that were built together with scope-cpp.

The wheel carries its own copy of the `llama_cpp` bindings and of libllama below
``scope_cpp/_vendor``, so that a llama-cpp-python that the user has installed is neither needed
nor touched. Only one of the two can live in a process: whoever is imported first.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from scope_cpp.errors import ScopeError
from scope_cpp.native import backends

BINDINGS = Path(__file__).parents[1] / "_vendor" / "llama_cpp"


# where llama.cpp aborts, it would let gdb print the stack, on stdout; read when the library loads
os.environ.setdefault("GGML_NO_BACKTRACE", "1")


def _load() -> ModuleType:
    loaded = sys.modules.get("llama_cpp")
    if loaded is not None:
        if Path(str(loaded.__file__)).parent == BINDINGS:
            return loaded
        raise ScopeError(
            f"another llama_cpp is loaded already, from {loaded.__file__}: "
            "import scope_cpp before llama_cpp"
        )
    spec = importlib.util.spec_from_file_location(
        "llama_cpp", BINDINGS / "__init__.py", submodule_search_locations=[str(BINDINGS)]
    )
    if spec is None or spec.loader is None or not (BINDINGS / "__init__.py").exists():
        raise ScopeError(f"the bindings are missing at {BINDINGS}: reinstall scope-cpp")
    module = importlib.util.module_from_spec(spec)
    sys.modules["llama_cpp"] = module
    try:
        calls = importlib.import_module("llama_cpp.llama_cpp")
        if backends.are_modules(calls._lib):
            backends.load(calls._lib, library_path())
    except (FileNotFoundError, RuntimeError, OSError, ScopeError) as err:
        del sys.modules["llama_cpp"]
        raise ScopeError(f"libllama can't be loaded: {err}; reinstall scope-cpp") from err
    _fill(module, calls)
    return module


def _fill(module: ModuleType, calls: ModuleType) -> None:
    """Give the package the C calls and its version, without running its ``__init__``.

    Its ``Llama`` class takes a third of a second to import and llama.cpp's log for itself, and
    nothing here uses it.
    """

    def absent(name: str) -> Any:
        raise AttributeError(
            f"module 'llama_cpp' has no attribute {name!r}: scope-cpp loads the C calls only; "
            "import llama_cpp.llama for the rest"
        )

    public = {name: value for name, value in vars(calls).items() if not name.startswith("_")}
    version = re.search(r'^__version__ = "(.+)"', Path(module.__file__ or "").read_text(), re.M)
    assert version is not None
    module.__dict__.update(public, __version__=version[1], __getattr__=absent)


def library_path() -> Path:
    """Folder that libllama was loaded from (``LLAMA_CPP_LIB_PATH`` replaces the wheel's own)."""
    return Path(os.environ.get("LLAMA_CPP_LIB_PATH") or BINDINGS / "lib")


llama_cpp: Any = _load()
