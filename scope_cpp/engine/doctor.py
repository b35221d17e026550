"""The installation: what is there, and whether it works.

Nothing native is imported at the top, so that a library that does not load is a finding too.
"""

from __future__ import annotations

import os
import platform
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from scope_cpp.errors import ScopeError

if TYPE_CHECKING:
    from scope_cpp.engine.devices import Device
    from scope_cpp.engine.selftest import Check

# the commit that a release of the bindings carries; the library itself does not tell
_COMMITS = {"0.3.36": "0c1e57098"}


@dataclass(frozen=True)
class Examination:
    """Answer of `examine`.

    Attributes
    ----------
    python, numpy, platform
        Versions, and the machine.
    library, bindings, commit, abi
        Folder of libllama, version of the bindings, commit of llama.cpp, and version of our
        functions in it; ``None`` if the library does not load.
    devices, cpu
        Devices of ggml, and the features of the CPU that it uses.
    left_out
        Libraries of backends that are there and not in use.
    checks
        The self-test.
    """

    python: str
    numpy: str
    platform: str
    library: str | None = None
    bindings: str | None = None
    commit: str | None = None
    abi: int | None = None
    devices: tuple[Device, ...] = ()
    cpu: str | None = None
    left_out: tuple[str, ...] = ()
    checks: tuple[Check, ...] = field(default=())

    @property
    def failed(self) -> tuple[Check, ...]:
        """Checks that do not hold."""
        return tuple(check for check in self.checks if not check.ok)


def examine(*, verbose: bool = False) -> Examination:
    """Look at the installation and run the self-test.

    Parameters
    ----------
    verbose
        Show llama.cpp's log.
    """
    versions = {
        "python": sys.version.split()[0],
        "numpy": np.__version__,
        "platform": platform.platform(),
    }
    try:
        native = native_facts(verbose)
    except ScopeError as err:
        return Examination(**versions, checks=(_not_loaded(err),))
    from scope_cpp.engine import selftest

    return Examination(**versions, **native, checks=tuple(selftest.run()))


def describe(found: Examination) -> list[tuple[str, str]]:
    """Return an examination as names and values for people."""
    rows = [
        ("Python", f"{found.python}, NumPy {found.numpy}, {found.platform}"),
        ("library", found.library or "does not load"),
    ]
    if found.library is not None:
        rows.append(("llama.cpp", f"{found.commit}, bindings {found.bindings}, ABI {found.abi}"))
        rows += [("device", f"{item.name}: {item.description}") for item in found.devices]
        rows.append(("CPU", found.cpu or "-"))
        why = "not in use: of another version than libllama, or its driver is missing"
        rows += [("left out", f"{name}: {why}") for name in found.left_out]
    mark = {True: "ok", False: "FAILED"}
    return rows + [(mark[check.ok], f"{check.name}: {check.detail}") for check in found.checks]


def llama_commit() -> str:
    """Return the commit of llama.cpp that the bindings were made for."""
    from scope_cpp.native.library import llama_cpp

    return _COMMITS.get(str(llama_cpp.__version__), "unknown")


def native_facts(verbose: bool = False) -> dict[str, Any]:
    """Return what `Examination` tells of the native library.

    Raises
    ------
    ScopeError
        If it does not load.
    """
    from scope_cpp.engine import logs
    from scope_cpp.engine.devices import devices
    from scope_cpp.native import backends, kv_evict
    from scope_cpp.native.library import library_path, llama_cpp

    logs.capture(verbose=verbose)
    llama_cpp.llama_backend_init()
    version = str(llama_cpp.__version__)
    return {
        "library": os.fspath(library_path()),
        "bindings": version,
        "commit": llama_commit(),
        "abi": kv_evict.ABI,
        "devices": tuple(devices()),
        "left_out": tuple(backends.left_out(llama_cpp.llama_cpp._lib, library_path())),
        "cpu": " ".join(llama_cpp.llama_print_system_info().decode().split()),
    }


def _not_loaded(err: ScopeError) -> Check:
    from scope_cpp.engine.selftest import Check

    return Check("library", False, str(err))
