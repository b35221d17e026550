"""Memory that is not there when scores are computed: refused, and all goes on when it is there."""

from __future__ import annotations

import ctypes
import os
import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from scope_cpp.native import kv_evict
from tests.conftest import Tiny
from tests.native.harness import Session, random_tokens

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="limits another process")

ALLOC = -25
# beside what is there already; one layer's attention is 16 MiB
LEFT = 8 * 2**20
BLOCK = 12 * 2**20


_libc = ctypes.CDLL(None)
_libc.malloc.restype = ctypes.c_void_p
_libc.malloc.argtypes = [ctypes.c_size_t]


def _free_blocks() -> Iterator[int]:
    """Take what earlier tests gave back to malloc, not to the system."""
    while block := _libc.malloc(BLOCK):
        yield block


@contextmanager
def no_memory(n_devices: int) -> Iterator[None]:
    """Let this process, or those that serve the devices, allocate next to nothing."""
    from tests.backends import rpc

    if n_devices and not rpc.children:
        pytest.skip("the memory of this device can't be limited")
    pids = [child.pid for child in rpc.children] if n_devices else [os.getpid()]
    before = {}
    for pid in pids:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[0])
        most = pages * os.sysconf("SC_PAGE_SIZE") + LEFT
        before[pid] = resource.prlimit(pid, resource.RLIMIT_AS)
        resource.prlimit(pid, resource.RLIMIT_AS, (most, before[pid][1]))
    taken = [] if n_devices else list(_free_blocks())
    try:
        yield
    finally:
        for block in taken:
            _libc.free(ctypes.c_void_p(block))
        for pid, limits in before.items():
            resource.prlimit(pid, resource.RLIMIT_AS, limits)


def test_scores(tiny: Tiny, n_devices: int) -> None:
    with Session(tiny(n_head=32, n_ctx_train=4096), n_ctx=2048) as session:
        kv_evict.init(session.ctx, 64)
        session.decode(random_tokens(1900), 0)
        positions, ids, _ = kv_evict.cells(session.ctx, 0)

        def scores() -> Any:
            return kv_evict.scores(session.ctx, 0, 64, ids)

        kv_evict.scores(session.ctx, 0, 1, ids)  # what ggml needs beside the buffers is there
        with no_memory(n_devices), pytest.raises(kv_evict.NativeError) as caught:
            scores()
        assert caught.value.status == ALLOC
        assert str(caught.value) == "attention scores: out of memory"
        assert np.array_equal(kv_evict.cells(session.ctx, 0)[0], positions)
        assert scores().sum(axis=(1, 2)) == pytest.approx(64 * 32, rel=1e-4)
