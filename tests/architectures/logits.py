"""Program: writes the logits of each model, decoded in every way, by any libllama it finds.

Usage: python -m tests.architectures.logits OUT.npz NAME=MODEL...
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from scope_cpp.native.library import llama_cpp
from tests.native.harness import F32, Session, random_tokens

N_TOKENS = 64  # two windows of the windowed models


def decode_all_ways(path: str | Path) -> dict[str, F32]:
    """Logits of one text: with and without flash attention, as one batch and token by token."""
    tokens = random_tokens(N_TOKENS)
    found = {}
    for kernel, flash in (("flash", True), ("plain", False)):
        with Session(path, flash=flash) as session:
            found[f"{kernel}-batch"] = session.decode(tokens, 0)
        with Session(path, flash=flash) as session:
            found[f"{kernel}-each"] = session.decode_each(tokens, 0)
    return found


def main(out: str, models: list[str]) -> None:
    assert not hasattr(llama_cpp.llama_cpp._lib, "llama_kv_evict_abi"), "this libllama is patched"
    logits = {}
    for name, _, path in (model.partition("=") for model in models):
        for way, values in decode_all_ways(path).items():
            logits[f"{name}/{way}"] = values
    np.savez(out, **logits)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
