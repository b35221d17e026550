"""Decode time per token: bounded policies against stock llama.cpp, in turn in one run.

    python scripts/cost_table.py MODEL.gguf [--stock LIBDIR] [--threads 1] [--rounds 8]

Every row is one process that holds its context at a fixed number of cells and, when told to,
decodes a block of tokens and reports the time of each. The rows take turns, block by block, so that
what else the machine does falls on all of them alike. "stock" rows run the libllama in LIBDIR
(scripts/build_native.py --stock --into build/stock) with the bindings alone. Run it with
OMP_WAIT_POLICY=passive on a machine that is busy or uses more than one thread.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import statistics
import subprocess
import sys
import time
from typing import Any

N_PROMPT, BETA, BLOCK, CHUNK = 2048, 512, 32, 128
FULL = 16000

KV = {"f16": 1, "q8_0": 8, "q4_0": 2}

# name: (cells of a stock row or None, Settings of a bounded row, flash attention)
ROWS: dict[str, dict[str, Any]] = {
    "stock, same cells": {"cells": N_PROMPT + BETA},
    "stock, same cells, flash attention off": {"cells": N_PROMPT + BETA, "flash": "off"},
    "hooks on, nothing selected": {"cells": N_PROMPT + BETA, "hooks": True},
    "slide": {"policy": "scope-slide"},
    "slide, last query": {"policy": "scope-slide", "options": ["score=last"]},
    "slide every 16": {"policy": "scope-slide", "options": ["interval=16"]},
    "discontinuous": {"policy": "scope-discontinuous"},
    "slide every 16, whole cells": {
        **{"policy": "scope-slide", "options": ["interval=16"], "granularity": "cell"}
    },
    "StreamingLLM": {"policy": "streaming-llm"},
    "stock, full cache at 16k": {"cells": FULL},
    "stock, full cache at 16k, flash attention off": {"cells": FULL, "flash": "off"},
}


def worker(model_path: str, row: dict[str, Any], threads: int) -> None:
    """Fill the cache, then decode a block for each line on stdin and print its times."""
    open_row = Stock if "cells" in row else bounded_row
    decode = open_row(model_path, row, threads)
    print("ready", flush=True)
    for _ in sys.stdin:
        times = []
        for _ in range(BLOCK):
            started = time.perf_counter()
            decode()
            times.append(time.perf_counter() - started)
        print(json.dumps(times), flush=True)


class Stock:
    """A context through the bindings alone, its cache full."""

    def __init__(self, model_path: str, row: dict[str, Any], threads: int) -> None:
        from scope_cpp.native.library import llama_cpp

        self.lib, self.n_cells = llama_cpp, row["cells"]
        self.log = llama_cpp.llama_log_callback(lambda *_: None)
        llama_cpp.llama_log_set(self.log, None)
        model_params = llama_cpp.llama_model_default_params()
        model_params.n_gpu_layers = row["ngl"]
        self.model = llama_cpp.llama_model_load_from_file(model_path.encode(), model_params)
        params = llama_cpp.llama_context_default_params()
        params.n_ctx, params.n_batch, params.n_ubatch = self.n_cells + CHUNK + 1, CHUNK, CHUNK
        params.n_seq_max, params.kv_unified = 2, True
        params.n_threads, params.n_threads_batch = threads, 2
        params.flash_attn_type = 0 if row.get("flash") == "off" else 1
        params.type_k = params.type_v = KV[row["kv"]]
        self.ctx = llama_cpp.llama_init_from_model(self.model, params)
        self.memory = llama_cpp.llama_get_memory(self.ctx)
        self.batch = llama_cpp.llama_batch_init(CHUNK, 0, 1)
        if row.get("hooks"):
            llama_cpp.llama_cpp._lib.llama_kv_evict_init(ctypes.c_void_p(self.ctx), 32)
        self._decode(prompt(CHUNK), 0)
        repeat_cells(llama_cpp, self.ctx, self.n_cells)

    def _decode(self, tokens: list[int], pos: int) -> None:
        batch = self.batch
        batch.n_tokens = len(tokens)
        for i, token in enumerate(tokens):
            batch.token[i], batch.pos[i], batch.n_seq_id[i] = token, pos + i, 1
            batch.seq_id[i][0], batch.logits[i] = 0, i == len(tokens) - 1
        if self.lib.llama_decode(self.ctx, batch) != 0:
            sys.exit("llama_decode failed")

    def __call__(self) -> None:
        """Decode one token at the same number of cells, and take it back."""
        self._decode([70], self.n_cells)
        self.lib.llama_get_logits_ith(self.ctx, -1)
        self.lib.llama_memory_seq_rm(self.memory, 0, self.n_cells, -1)


def repeat_cells(lib: Any, ctx: Any, n_cells: int) -> None:
    """Fill the cache with copies of its first chunk: for the time, only their number matters."""
    memory = lib.llama_get_memory(ctx)
    size = lib.llama_state_seq_get_size(ctx, 0)
    state = (ctypes.c_uint8 * size)()
    lib.llama_state_seq_get_data(ctx, state, size, 0)
    for start in range(CHUNK, n_cells, CHUNK):
        lib.llama_state_seq_set_data(ctx, state, size, 1)
        lib.llama_memory_seq_rm(memory, 1, n_cells - start, -1)
        lib.llama_memory_seq_add(memory, 1, 0, -1, start)
        lib.llama_memory_seq_cp(memory, 1, 0, -1, -1)
        lib.llama_memory_seq_rm(memory, 1, -1, -1)


def bounded_row(model_path: str, row: dict[str, Any], threads: int) -> Any:
    """Decode through the bounded cache, its pool full."""
    from scope_cpp.engine.cache import BoundedCache
    from scope_cpp.engine.context import Context, ContextParams
    from scope_cpp.engine.model import Model
    from scope_cpp.engine.settings import Settings, resolve
    from scope_cpp.native.library import llama_cpp

    model = Model.load(model_path, n_gpu_layers=row["ngl"])
    n_cells, kind = N_PROMPT + BETA, KV[row["kv"]]
    params = ContextParams(
        n_cells=n_cells + CHUNK,
        type_k=kind,
        type_v=kind,
        n_threads=threads,
        n_threads_batch=2,
        n_seq_max=2,
    )
    context = Context(model, params)
    context.decode(prompt(CHUNK), 0)
    repeat_cells(llama_cpp, context.ptr, n_cells)
    settings = Settings(
        policy=row["policy"],
        options=tuple(row.get("options", ())),
        budget=n_cells,
        granularity=row.get("granularity", "head"),
    )
    sizes = resolve(settings, model, N_PROMPT, 8192)
    whole = settings.granularity == "cell"
    cache = BoundedCache(
        context, n_cells, sizes.decode, sizes.prefill, whole_cells=whole, n_predict=8192
    )
    cache.adopt(N_PROMPT)

    def decode() -> None:
        cache.decode(70)
        context.logits()

    return decode


def prompt(n: int) -> list[int]:
    """Return `n` tokens."""
    return [300 + i * 7919 % 80 for i in range(n)]


def ask(process: subprocess.Popen[str]) -> Any:
    """Let one row decode a block."""
    assert process.stdin and process.stdout
    process.stdin.write("go\n")
    process.stdin.flush()
    return json.loads(process.stdout.readline())


def start(args: argparse.Namespace, name: str) -> subprocess.Popen[str]:
    """Start the process of one row; stock rows on the stock library."""
    row = ROWS[name] | {"kv": args.kv, "ngl": args.ngl}
    environment = dict(os.environ)
    if args.stock and name.startswith("stock"):
        environment["LLAMA_CPP_LIB_PATH"] = args.stock
    command = [sys.executable, __file__, args.model, "--threads", str(args.threads)]
    process = subprocess.Popen(
        [*command, "--worker", json.dumps(row)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )
    if process.stdout is None or process.stdout.readline().strip() != "ready":
        sys.exit(f"{name} did not start")
    return process


def main() -> None:
    """Print a Markdown table: medians and spread, and ratios to the first row."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--stock", help="folder of an unpatched libllama")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--kv", default="f16")
    parser.add_argument("--ngl", type=int, default=0)
    parser.add_argument("--only", nargs="+", default=list(ROWS))
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        worker(args.model, json.loads(args.worker), args.threads)
        return
    processes = {name: start(args, name) for name in args.only}
    means: dict[str, list[float]] = {name: [] for name in processes}
    for _ in range(args.rounds + 1):
        for name, process in processes.items():
            means[name].append(1e3 * statistics.mean(ask(process)))
    for process in processes.values():
        process.terminate()
    print(f"| row | ms per token, median of {args.rounds} blocks | min | max | vs first row |")
    print("|---|---|---|---|---|")
    base = means[next(iter(processes))]
    for name, blocks in means.items():
        ratios = [mine / theirs for mine, theirs in zip(blocks[1:], base[1:], strict=True)]
        kept = blocks[1:]  # the first block warms up
        print(
            f"| {name} | {statistics.median(kept):.1f} | {min(kept):.1f} | {max(kept):.1f} | "
            f"{statistics.median(ratios):.2f} |"
        )


if __name__ == "__main__":
    main()
