"""Models, written once, and logits of a libllama without our sources."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from gguf import GGUFReader

from tests.conftest import Tiny
from tests.native.stock_logits import JOBS


@pytest.fixture(scope="session")
def quiet(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    """As `tiny`, with an attention that writes nothing into the residual stream.

    The fused attention rounds more than the plain one. Here no layer sees what another one's
    attention computed, so that their softmax weights can be compared to the last digit.
    """
    folder = tmp_path_factory.mktemp("quiet")

    def get(**fields: Any) -> Path:
        source = tiny(**fields)
        path = folder / source.name
        if not path.exists():
            path.write_bytes(source.read_bytes())
            for tensor in GGUFReader(path, "r+").tensors:
                if tensor.name.endswith("attn_output.weight"):
                    tensor.data[:] = 0
        return path

    return get


@pytest.fixture(scope="session")
def stock_logits(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Logits of every job of `stock_logits`, by the library in $SCOPE_STOCK_LIB.

    A process can hold only one libllama, so another process computes them.
    """
    library = os.environ.get("SCOPE_STOCK_LIB")
    if not library:
        pytest.skip("no unpatched libllama: set SCOPE_STOCK_LIB to the folder it lies in")
    out = tmp_path_factory.mktemp("stock") / "logits.npz"
    command = [sys.executable, "-m", "tests.native.stock_logits", str(tiny()), str(out)]
    root = Path(__file__).resolve().parents[2]
    env = os.environ | {"LLAMA_CPP_LIB_PATH": library, "PYTHONPATH": str(root)}
    result = subprocess.run(command, cwd=root, env=env, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-2000:]
    report = json.loads(result.stdout)
    assert report == {"hooks": False, "jobs": len(JOBS)}
    loaded: dict[str, npt.NDArray[np.float32]] = dict(np.load(out))
    return loaded
