"""A full cache through the bindings alone, on whatever libllama the process has loaded."""

from __future__ import annotations

import ctypes
import os
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from scope_cpp.bench.fill import CHUNK, Filler, cells_without_gap, random_tokens
from scope_cpp.bench.row import Compute, Row
from scope_cpp.engine import logs
from scope_cpp.engine.kv_types import kv_type
from scope_cpp.engine.threads import default_threads
from scope_cpp.errors import ScopeError
from scope_cpp.native.finite import require_logits
from scope_cpp.native.library import llama_cpp

_WITH_STATES = llama_cpp.llama_model_is_hybrid, llama_cpp.llama_model_is_recurrent
_STATES_ONLY = llama_cpp.LLAMA_STATE_SEQ_FLAGS_PARTIAL_ONLY
# of the line that each cache logs when it is created
_KV_SIZE = re.compile(r"\bsize = +([0-9.]+) MiB \( *\d+ cells")


class StockRow:
    """Holds its cache at one number of cells: what a step adds is taken back after it."""

    def __init__(self, row: Row, compute: Compute) -> None:
        self.row, self.compute = row, compute
        self.model = self._load()
        self.vocab = llama_cpp.llama_model_get_vocab(self.model)
        self.kv_mib: float | None = None
        self.ctx = self._open()
        self.n_batch = int(llama_cpp.llama_n_batch(self.ctx))
        self.memory = llama_cpp.llama_get_memory(self.ctx)
        self.batch = llama_cpp.llama_batch_init(self.n_batch, 0, 1)
        self.sampler = llama_cpp.llama_sampler_init_greedy()
        self.n_vocab = int(llama_cpp.llama_vocab_n_tokens(self.vocab))
        self.tokens = random_tokens(max(row.cells, CHUNK), self.n_vocab, compute.seed)
        self._states: Any = None  # recurrent ones, before a step

    def prepare(self) -> dict[str, Any]:
        """Fill the cache; say what it is."""
        row, start = self.row, self.row.filled
        if start and row.fill == "decode":
            self._decode(self.tokens[:start], 0)
        elif start:
            filler = Filler(self.ctx, self._decode, self.tokens, self.n_batch)
            filler.take_chunk()
            n_read = min(row.n_prompt, start) if row.fill == "read" else 0
            self._decode(self.tokens[:n_read], 0)
            filler.place(n_read, start - n_read)
        self._token = self.tokens[0]
        if any(kind(self.model) for kind in _WITH_STATES):
            self._states = self._read_states()
        return {
            "kv_mib": self.kv_mib,
            "cells_allocated": int(llama_cpp.llama_n_ctx(self.ctx)),
            "has_hooks": hasattr(llama_cpp.llama_cpp._lib, "llama_kv_evict_abi"),
            "policy": {},
        }

    def step(self) -> None:
        """Read the row's tokens, or the one chosen last, and choose the next."""
        row = self.row
        tokens = [self._token] if row.n_read == 1 else self.tokens[: row.n_read]
        self._decode(tokens, row.filled)
        self._token = llama_cpp.llama_sampler_sample(self.sampler, self.ctx, -1)

    def restore(self) -> None:
        """Take back what the step added."""
        self._cells = cells_without_gap(self.ctx, from_0=self.row.fill == "decode")
        if self.row.filled == 0:
            llama_cpp.llama_memory_clear(self.memory, False)
            return
        if self._states is not None:  # these can't be cut
            lib, states = llama_cpp, self._states
            lib.llama_state_seq_set_data_ext(self.ctx, states, len(states), 0, _STATES_ONLY)
        llama_cpp.llama_memory_seq_rm(self.memory, 0, self.row.filled, -1)

    def counters(self) -> dict[str, float]:
        """Nothing is ever selected."""
        return {}

    def state(self) -> dict[str, Any]:
        """What the cache is like after a block; refuses logits that are NaN or infinite."""
        logits = llama_cpp.llama_get_logits_ith(self.ctx, -1)
        require_logits(np.ctypeslib.as_array(logits, (self.n_vocab,)), self.ctx)
        return {"cells_used": self._cells, "attention_loss": None}

    def _read_states(self) -> Any:
        size = llama_cpp.llama_state_seq_get_size_ext(self.ctx, 0, _STATES_ONLY)
        states = (ctypes.c_uint8 * size)()
        llama_cpp.llama_state_seq_get_data_ext(self.ctx, states, size, 0, _STATES_ONLY)
        return states

    def _load(self) -> Any:
        llama_cpp.llama_backend_init()
        params = llama_cpp.llama_model_default_params()
        params.load_mode = getattr(
            llama_cpp, f"LLAMA_LOAD_MODE_{'AUTO' if self.compute.use_mmap else 'NONE'}"
        )
        if self.compute.n_gpu_layers is not None:
            params.n_gpu_layers = self.compute.n_gpu_layers
        logs.clear()
        model = llama_cpp.llama_model_load_from_file(os.fsencode(self.compute.model), params)
        if not model:
            cause = logs.errors()[:1]  # what follows says only that it failed
            raise ScopeError(f"the model cannot be loaded: {''.join(cause) or _reason()}")
        return model

    def _open(self) -> Any:
        compute, row = self.compute, self.row
        params = llama_cpp.llama_context_default_params()
        params.n_ctx = row.cells
        params.n_batch = min(compute.n_batch, row.cells)
        params.n_ubatch = min(compute.n_ubatch, params.n_batch)
        # a second sequence to fill the cache with
        params.n_seq_max, params.kv_unified = (1 if row.fill == "decode" else 2), True
        params.swa_full = False  # as llama.cpp's own programs: windows take what they need
        params.n_threads = compute.n_threads or default_threads()
        params.n_threads_batch = compute.n_threads_batch or params.n_threads
        params.flash_attn_type = {"on": 1, "off": 0}[row.flash]
        params.type_k = kv_type(compute.type_k).ggml_type
        params.type_v = kv_type(compute.type_v).ggml_type
        params.no_perf = True
        logs.clear()
        ctx = llama_cpp.llama_init_from_model(self.model, params)
        if not ctx:
            raise ScopeError(f"no context of {row.cells} cells: {_reason()}")
        if not llama_cpp.llama_get_memory(ctx):
            raise ScopeError("an encoder can't generate")
        self.kv_mib = logged_kv_mib(logs.lines())
        return ctx

    def _decode(self, tokens: Sequence[int], pos: int) -> None:
        for start in range(0, len(tokens), self.n_batch):
            self._decode_batch(tokens[start : start + self.n_batch], pos + start)

    def _decode_batch(self, tokens: Sequence[int], pos: int) -> None:
        batch = self.batch
        batch.n_tokens = len(tokens)
        for i, token in enumerate(tokens):
            batch.token[i] = token
            batch.pos[i] = pos + i
            batch.n_seq_id[i] = 1
            batch.seq_id[i][0] = 0
            batch.logits[i] = False
        batch.logits[len(tokens) - 1] = True
        status = llama_cpp.llama_decode(self.ctx, batch)
        if status != 0:
            raise ScopeError(f"llama.cpp failed to decode (status {status}): {_reason()}")


def logged_kv_mib(lines: Sequence[str]) -> float | None:
    """Return the MiB of K and V that llama.cpp's log says it allocated, over all its caches."""
    sizes = [float(found[1]) for line in lines for found in [_KV_SIZE.search(line)] if found]
    return sum(sizes) if sizes else None


def _reason() -> str:
    errors = logs.errors()
    return errors[-1] if errors else "no reason was logged"
