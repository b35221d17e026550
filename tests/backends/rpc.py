"""Devices whose memory this process can't reach: llama.cpp's RPC backend, served by children.

A child serves its CPU on the loopback interface: another address space, and the CPU's rounding.
"""

from __future__ import annotations

import atexit
import ctypes
import os
import re
import socket
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FOLDER = Path(os.environ.get("SCOPE_RPC_LIB", ROOT / "build" / "rpc"))

# how long a child may take until it listens, and to end
_PATIENCE = 60.0


# the names of the messages that carry what a tensor holds, as the servers log them
_TRANSFER = re.compile(rb"^\[(set|get)_tensor\] .* size: (\d+)$", re.M)
_logs: list[Path] = []
children: list[subprocess.Popen[bytes]] = []


@dataclass(frozen=True)
class Traffic:
    """Uploads to all devices and downloads from them: how many, and their bytes."""

    uploads: int = 0
    downloads: int = 0
    up_bytes: int = 0
    down_bytes: int = 0

    def __sub__(self, other: Traffic) -> Traffic:
        pairs = zip(vars(self).values(), vars(other).values(), strict=True)
        return Traffic(*(a - b for a, b in pairs))


def traffic() -> Traffic:
    """What went to and fro so far, by the servers' logs."""
    from scope_cpp.engine.devices import devices

    devices()  # asks the servers, which answer when all messages before are in their logs
    sizes: dict[bytes, list[int]] = {b"set": [], b"get": []}
    for log in _logs:
        for kind, size in _TRANSFER.findall(log.read_bytes()):
            sizes[kind].append(int(size))
    ups, downs = sizes[b"set"], sizes[b"get"]
    return Traffic(len(ups), len(downs), sum(ups), sum(downs))


def library() -> Path | None:
    """The backend, as ``scripts/build_native.py --rpc`` builds it; None if it is not there."""
    return next(iter(sorted(FOLDER.glob("*ggml-rpc.*"))), None)


def add_device() -> str:
    """Start a child and register its device, before any model is loaded; return its address."""
    address = start()
    register(address)
    return address


def start() -> str:
    """Start a child; return the address that it listens on. It ends with this process.

    Its log stays in the library's folder if this process is aborted, as it is when the child is.
    """
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    command = [sys.executable, "-m", "tests.backends.server", str(_found()), address]
    env = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path]),
        "GGML_RPC_DEBUG": "1",
        # what is freed goes back to the system: a test that limits its memory must find none
        "MALLOC_MMAP_THRESHOLD_": "65536",
    }
    log = FOLDER / f"server-{os.getpid()}-{len(_logs)}.log"
    _logs.append(log)
    with log.open("wb") as out:
        child = subprocess.Popen(
            command,
            cwd=ROOT,
            env=env,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=out,
        )
    children.append(child)
    atexit.register(_end, child, log)  # which keeps the child's stdin open until then
    _await(child, address)
    return address


def register(address: str) -> None:
    """Make what listens at `address` a device of this process."""
    rpc = ctypes.CDLL(str(_found()))
    rpc.ggml_backend_rpc_add_server.argtypes = [ctypes.c_char_p]
    rpc.ggml_backend_rpc_add_server.restype = ctypes.c_void_p
    ggml = ggml_library()
    ggml.ggml_backend_register.argtypes = [ctypes.c_void_p]
    ggml.ggml_backend_register.restype = None
    ggml.ggml_backend_register(rpc.ggml_backend_rpc_add_server(address.encode()))


def ggml_library() -> ctypes.CDLL:
    """What has the symbols of libggml."""
    from scope_cpp.native.library import llama_cpp

    return ctypes.CDLL(llama_cpp.llama_cpp._lib._name)


def _found() -> Path:
    from scope_cpp.native import library as _loaded  # noqa: F401  # libggml-base comes first

    path = library()
    assert path, f"no RPC backend in {FOLDER}: scripts/build_native.py --rpc --into build/rpc"
    return path


def _await(child: subprocess.Popen[bytes], address: str) -> None:
    """Wait until the child listens."""
    host, _, port = address.partition(":")
    tries = int(_PATIENCE / 0.05)
    for _ in range(tries):
        with suppress(ConnectionRefusedError), socket.create_connection((host, int(port))):
            return
        with suppress(subprocess.TimeoutExpired):
            child.wait(0.05)
            break
    raise AssertionError(f"the RPC server did not come up (exit status {child.poll()})")


def _end(child: subprocess.Popen[bytes], log: Path) -> None:
    child.kill()
    child.wait(_PATIENCE)
    log.unlink()
