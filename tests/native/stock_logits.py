"""Program: writes the logits of a fixed text under every job, with whatever libllama it finds.

Usage: python -m tests.native.stock_logits MODEL OUT.npz
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from scope_cpp.native.library import llama_cpp
from tests.native.harness import Session, random_tokens

N_PROMPT, N_MORE = 130, 25

# name -> arguments of the session: the prompt in one ubatch, in several, in many with a short rest
JOBS: dict[str, dict[str, Any]] = {
    f"{kv}-{n_ubatch}-{'flash' if flash else 'plain'}": {
        **{"kv": kv, "n_ubatch": n_ubatch, "flash": flash}
    }
    for kv, flash in (("f16", True), ("q8_0", True), ("f16", False))
    for n_ubatch in (512, 64, 9)
}


def run(session: Session, step: Callable[[], object] = lambda: None) -> npt.NDArray[np.float32]:
    """Logits of a prompt and of single tokens after it; `step` is called after each decode."""
    tokens = random_tokens(N_PROMPT + N_MORE)
    parts = [session.decode(tokens[:N_PROMPT], 0)]
    step()
    for pos in range(N_PROMPT, len(tokens)):
        parts.append(session.decode([tokens[pos]], pos))
        step()
    return np.concatenate(parts)


def main(model: Path, out: Path) -> None:
    logits: dict[str, Any] = {}
    for name, arguments in JOBS.items():
        with Session(model, **arguments) as session:
            logits[name] = run(session)
    np.savez(out, **logits)
    hooks = hasattr(llama_cpp.llama_cpp._lib, "llama_kv_evict_abi")
    print(json.dumps({"hooks": hooks, "jobs": len(logits)}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
