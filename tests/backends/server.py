"""Serves this machine's CPU as an RPC device: ``python -m tests.backends.server LIBRARY ADDRESS``.

One thread, as the tests' own contexts have, so that both add up in the same order.
"""

from __future__ import annotations

import ctypes
import os
import sys
import threading

from tests.backends.rpc import ggml_library

CPU = 0  # enum ggml_backend_dev_type


def main(path: str, address: str) -> None:
    """Serve until the parent, which holds the other end of stdin, is gone."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    ggml = ggml_library()
    ggml.ggml_backend_dev_by_type.argtypes = [ctypes.c_int]
    ggml.ggml_backend_dev_by_type.restype = ctypes.c_void_p
    devices = (ctypes.c_void_p * 1)(ggml.ggml_backend_dev_by_type(CPU))
    serve = ctypes.CDLL(path).ggml_backend_rpc_start_server
    serve.restype = None
    serve.argtypes = [ctypes.c_char_p, ctypes.c_char_p, *[ctypes.c_size_t] * 2, ctypes.c_void_p]
    serve(address.encode(), None, 1, len(devices), devices)


def _end_with_parent() -> None:
    sys.stdin.read()
    os._exit(0)


if __name__ == "__main__":
    main(*sys.argv[1:])
