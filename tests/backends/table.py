"""Every policy on every kind of cache, on a device: ``python -m tests.backends.table``.

The same tokens are fed to a model on the device and to one in main memory. Both choose rows by
attention that differs by its rounding, so now and then they keep other ones: the table tells how
many agree, and how far logits are apart. It is what ``scripts/test_vulkan`` ends with.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from scope_cpp.engine.context import Context, ContextParams
from scope_cpp.engine.devices import devices
from scope_cpp.engine.kv_types import kv_type
from scope_cpp.engine.model import Model
from scope_cpp.native import kv_evict
from scope_cpp.policies import decode_names
from scope_cpp.reference.tiny_model import write_tiny_model
from tests.engine.drive import decode_each, error, kept, make_cache, random_tokens

N_PROMPT, N_OUTPUT, BUDGET = 40, 60, 64
# KV type and flash attention; llama.cpp quantizes no V without the latter
KINDS = (("f16", "on"), ("f16", "off"), ("q8_0", "on"), ("q4_0", "on"))


def write(path: Path, policy: str, kv: str, flash_attn: str, n_gpu_layers: int | None) -> Any:
    """Logits after each token of the output, the rows that are held at its end, and most cells."""
    kind = kv_type(kv).ggml_type
    budget = N_PROMPT + N_OUTPUT if policy == "full" else BUDGET
    params = ContextParams(
        n_cells=budget, type_k=kind, type_v=kind, n_threads=1, flash_attn=flash_attn
    )
    with (
        Model.load(path, n_gpu_layers=n_gpu_layers) as model,
        Context(model, params) as context,
    ):
        fields = {"budget": budget, "type_k": kv, "type_v": kv, "policy": policy}
        cache = make_cache(context, N_PROMPT, N_OUTPUT, **fields)
        cache.prefill(random_tokens(N_PROMPT))
        logits = decode_each(cache, random_tokens(N_OUTPUT, seed=3))
        if n_gpu_layers is None:
            assert kv_evict.memory(context.ptr)["cells"][0] == 0, "the cells lie in main memory"
        assert cache.stats.cells_peak <= budget
        return logits, kept(cache) if cache.bounded else None, cache.stats.evicted


def cell(path: Path, policy: str, kv: str, flash_attn: str) -> str:
    """One field of the table."""
    (got, held, evicted), (expected, others, _) = (
        write(path, policy, kv, flash_attn, n_layers) for n_layers in (None, 0)
    )
    assert np.isfinite(got).all()
    differences = [error(a, b) for a, b in zip(got, expected, strict=True)]
    middle = f"{np.median(differences):.4f}"
    if held is None or not evicted:
        return f"{middle}, nothing evicted"
    same = [np.isin(a, b).mean() for rows in zip(held, others, strict=True)
            for a, b in zip(*rows, strict=True)]  # fmt: skip
    return f"{middle}, {100 * np.mean(same):.0f} %"


def main() -> int:
    """Print the table; fail if something can't be run."""
    found = [item for item in devices() if item.kind != "CPU"]
    if not found:
        print("there is no device beside the CPU", file=sys.stderr)
        return 1
    print(f"{found[0].name}: {found[0].description}\n")
    head = [f"{kv}, flash attention {flash_attn}" for kv, flash_attn in KINDS]
    print("| policy | " + " | ".join(head) + " |")
    print("|---" * (len(KINDS) + 1) + "|")
    with tempfile.TemporaryDirectory() as folder:
        path = write_tiny_model(Path(folder) / "tiny.gguf", n_layer=2)
        for policy in decode_names():
            fields = [cell(path, policy, *kind) for kind in KINDS]
            print(f"| `{policy}` | " + " | ".join(fields) + " |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
