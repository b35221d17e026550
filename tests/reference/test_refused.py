"""The files to refuse are what they claim to be: stock llama.cpp runs them, or cannot load them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.reference.refused import LOADABLE, UNLOADABLE, write_refused
from tests.reference.stock import LoadError, Stock


@pytest.mark.parametrize("name", LOADABLE)
def test_stock_llama_cpp_decodes_it(tmp_path: Path, name: str) -> None:
    path = write_refused(name, tmp_path / "model.gguf")
    with Stock(path, n_ctx=256) as stock:
        tokens = stock.tokenize("there and then")
        logits = stock.decode(tokens, pos=0)
    assert np.isfinite(logits).all()
    # an encoder has no next token; all others depend on what they read
    assert (logits.std(axis=0).max() > 0.1) == (name != "bert")


@pytest.mark.parametrize("name", UNLOADABLE)
def test_stock_llama_cpp_cannot_load_it(tmp_path: Path, name: str) -> None:
    with pytest.raises(LoadError, match="no model"):
        Stock(write_refused(name, tmp_path / "model.gguf"))


def test_files_are_small(tmp_path: Path) -> None:
    for name in LOADABLE | UNLOADABLE:
        assert write_refused(name, tmp_path / "model.gguf").stat().st_size < 2_000_000
