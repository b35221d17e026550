"""One model and one context of llama.cpp through its bindings, with nothing of ours in use."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from scope_cpp.native.library import llama_cpp

KV_TYPES = {"f32": 0, "f16": 1, "q8_0": 8}  # enum ggml_type


class LoadError(RuntimeError):
    """llama.cpp returned no model or no context."""


class Stock:
    """A loaded model with a context of `n_ctx` cells; use it in a ``with`` statement.

    Parameters
    ----------
    kv : str
        Type of the cache, a key of ``KV_TYPES``.
    flash : bool
        Whether attention is the fused kernel. On a CPU that one rounds K, V and Q to f16.

    Raises
    ------
    LoadError
        When llama.cpp cannot load the file or make a context for it.
    """

    def __init__(
        self, path: str | Path, n_ctx: int = 512, kv: str = "f16", flash: bool = True
    ) -> None:
        llama_cpp.llama_backend_init()
        self._ctx: Any = None
        self._model: Any = llama_cpp.llama_model_load_from_file(
            str(path).encode(), llama_cpp.llama_model_default_params()
        )
        if not self._model:
            raise LoadError(f"no model from {path}")
        self._vocab = llama_cpp.llama_model_get_vocab(self._model)
        self.n_vocab: int = llama_cpp.llama_vocab_n_tokens(self._vocab)
        self._ctx = llama_cpp.llama_init_from_model(self._model, _context(n_ctx, kv, flash))
        if not self._ctx:
            self.close()
            raise LoadError(f"no context for {path}")

    def __enter__(self) -> Stock:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Free the context and the model; a second call does nothing."""
        if self._ctx:
            llama_cpp.llama_free(self._ctx)
        if self._model:
            llama_cpp.llama_model_free(self._model)
        self._ctx = self._model = None

    def decode(self, tokens: Sequence[int], pos: int) -> npt.NDArray[np.float32]:
        """Decode `tokens` from position `pos` on and return the logits after each."""
        batch = llama_cpp.llama_batch_init(len(tokens), 0, 1)
        batch.n_tokens = len(tokens)
        for i, token in enumerate(tokens):
            batch.token[i] = token
            batch.pos[i] = pos + i
            batch.n_seq_id[i] = 1
            batch.seq_id[i][0] = 0
            batch.logits[i] = 1
        status = llama_cpp.llama_decode(self._ctx, batch)
        llama_cpp.llama_batch_free(batch)
        if status != 0:
            raise RuntimeError(f"llama_decode returned {status}")
        flat = np.ctypeslib.as_array(
            llama_cpp.llama_get_logits(self._ctx), (len(tokens) * self.n_vocab,)
        )
        return flat.reshape(len(tokens), self.n_vocab).copy()

    def remove(self, begin: int, end: int) -> None:
        """Remove the cells of positions `begin` to `end` - 1."""
        memory = llama_cpp.llama_get_memory(self._ctx)
        if not llama_cpp.llama_memory_seq_rm(memory, 0, begin, end):
            raise RuntimeError("llama_memory_seq_rm refused")

    def tokenize(self, text: str, add_special: bool = False) -> list[int]:
        """Return the tokens of `text`."""
        raw = text.encode()
        tokens = (llama_cpp.llama_token * (len(raw) + 2))()
        n = llama_cpp.llama_tokenize(
            self._vocab, raw, len(raw), tokens, len(tokens), add_special, False
        )
        return list(tokens[:n])

    def detokenize(self, tokens: Sequence[int]) -> str:
        """Return the text of `tokens`."""
        ids = (llama_cpp.llama_token * len(tokens))(*tokens)
        buffer = ctypes.create_string_buffer(32 * len(tokens) + 32)
        n = llama_cpp.llama_detokenize(
            self._vocab, ids, len(tokens), buffer, len(buffer), False, False
        )
        return buffer.raw[:n].decode()


def _context(n_ctx: int, kv: str, flash: bool) -> Any:
    params = llama_cpp.llama_context_default_params()
    params.n_ctx = params.n_batch = params.n_ubatch = n_ctx
    params.n_threads = params.n_threads_batch = 1
    params.type_k = params.type_v = KV_TYPES[kv]
    params.flash_attn_type = (
        llama_cpp.LLAMA_FLASH_ATTN_TYPE_ENABLED
        if flash
        else llama_cpp.LLAMA_FLASH_ATTN_TYPE_DISABLED
    )
    return params
