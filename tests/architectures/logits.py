"""Program: writes the logits of each model, by whatever libllama it finds, if that is unpatched.

Usage: python -m tests.architectures.logits OUT.npz NAME=MODEL...
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from scope_cpp.native.library import llama_cpp
from tests.native.harness import F32, Session, random_tokens

N_TOKENS = 64  # two windows of the windowed models

WAYS = ("flash-batch", "flash-each", "plain-batch", "plain-each")
STOCK_WAYS = ("flash-batch", "plain-each")


def decode(path: str | Path, way: str) -> F32:
    """Logits of one text, with or without flash attention, as one batch or token by token.

    The cache is f32: with less, rounding alone may choose another expert.
    """
    kernel, _, size = way.partition("-")
    with Session(path, kv="f32", flash=kernel == "flash") as session:
        read = session.decode if size == "batch" else session.decode_each
        return read(random_tokens(N_TOKENS), 0)


def main(out: str, models: list[str]) -> None:
    assert not hasattr(llama_cpp.llama_cpp._lib, "llama_kv_evict_abi"), "this libllama is patched"
    pairs = [model.split("=", 1) for model in models]
    np.savez(
        out, **{f"{name}/{way}": decode(path, way) for name, path in pairs for way in STOCK_WAYS}
    )


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
