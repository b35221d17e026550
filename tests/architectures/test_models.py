"""The tiny models of every architecture: they decode, rightly, and as stock llama.cpp does."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from tests.architectures.logits import STOCK_WAYS, WAYS, decode
from tests.architectures.table import ARCHITECTURES
from tests.conftest import Tiny
from tests.native.harness import F32

ROOT = Path(__file__).resolve().parents[2]
WRITERS = [name for name, entry in ARCHITECTURES.items() if entry.generates]

_logits = cache(decode)


@pytest.fixture(scope="module")
def stock(tiny_arch: Tiny, tmp_path_factory: pytest.TempPathFactory) -> dict[str, F32]:
    """Logits by the library in $SCOPE_STOCK_LIB: another process, which can hold only one."""
    library = os.environ.get("SCOPE_STOCK_LIB")
    if not library:
        pytest.skip("no unpatched libllama: set SCOPE_STOCK_LIB to the folder it lies in")
    out = tmp_path_factory.mktemp("stock") / "logits.npz"
    models = [f"{arch}={tiny_arch(arch=arch)}" for arch in WRITERS]
    result = subprocess.run(
        [sys.executable, "-m", "tests.architectures.logits", str(out), *models],
        cwd=ROOT,
        env=os.environ | {"LLAMA_CPP_LIB_PATH": library, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr[-2000:]
    return dict(np.load(out))


@pytest.mark.parametrize("arch", WRITERS)
def test_every_way_to_decode_agrees(tiny_arch: Tiny, arch: str) -> None:
    logits = {way: _logits(tiny_arch(arch=arch), way) for way in WAYS}
    reference = logits["plain-batch"]
    assert np.isfinite(reference).all()
    assert reference.std(axis=0).mean() > 0.5, "the text hardly matters"
    assert reference.std(axis=1).mean() > 0.5, "the tokens hardly differ"
    largest = float(np.abs(reference).max())
    for way in WAYS:
        np.testing.assert_allclose(logits[way], reference, 0, 1e-2 * largest, err_msg=way)


@pytest.mark.parametrize("arch", WRITERS)
def test_stock_llama_cpp_computes_the_same(
    tiny_arch: Tiny, stock: dict[str, F32], arch: str
) -> None:
    for way in STOCK_WAYS:
        logits = _logits(tiny_arch(arch=arch), way)
        np.testing.assert_array_equal(logits, stock[f"{arch}/{way}"], err_msg=way)
