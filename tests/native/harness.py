"""A model and a context of any kind, driven token by token through the bindings alone.

Nothing here needs the eviction hooks, so it also runs on a libllama that has none.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from scope_cpp.native.library import llama_cpp

F32 = npt.NDArray[np.float32]
Token = tuple[int, int, tuple[int, ...]]  # token, position, sequences

# enum ggml_type, of every type that llama.cpp takes for a KV cache
KV_TYPES = {
    "f32": 0,
    "f16": 1,
    "q4_0": 2,
    "q4_1": 3,
    "q5_0": 6,
    "q5_1": 7,
    "q8_0": 8,
    "iq4_nl": 20,
    "bf16": 30,
}

# arguments of a session, for every kind of cache. Without flash attention V lies transposed, and
# can't be quantized.
FLASH: list[dict[str, Any]] = [{"kv": kv} for kv in sorted(KV_TYPES)]
PLAIN: list[dict[str, Any]] = [
    {"kv": kv, "flash": False}
    for kv in ("f32", "f16", "bf16", ("q8_0", "f16"), ("q4_0", "f32"), ("f16", "bf16"))
]
CACHES = FLASH + PLAIN


# logit of tokens that a model never writes, such as those of Chameleon's pictures: left out
_FORBIDDEN = np.finfo(np.float32).min


class Session:
    """One model with one context, on one thread; use it in a ``with`` statement.

    Parameters
    ----------
    kv : str or (str, str)
        Type of K and of V, keys of ``KV_TYPES``.
    flash : bool, optional
        Flash attention; None leaves it to llama.cpp.
    on_tensor : callable, optional
        What llama.cpp calls with every tensor of the graph, as its ``cb_eval``.
    more, placement : dict, optional
        Further fields of ``llama_context_params``, and of ``llama_model_params``.
    """

    def __init__(
        self,
        path: str | Path,
        n_ctx: int = 256,
        kv: str | tuple[str, str] = "f16",
        *,
        n_ubatch: int = 512,
        n_seq: int = 1,
        flash: bool | None = True,
        unified: bool = True,
        on_tensor: Callable[[int, bool, int | None], bool] | None = None,
        more: dict[str, Any] | None = None,
        placement: dict[str, Any] | None = None,
    ) -> None:
        llama_cpp.llama_backend_init()
        self.ctx: Any = None
        model_params = llama_cpp.llama_model_default_params()
        for name, value in (placement or {}).items():
            setattr(model_params, name, value)
        self.model: Any = llama_cpp.llama_model_load_from_file(str(path).encode(), model_params)
        assert self.model, f"no model from {path}"
        self.vocab = llama_cpp.llama_model_get_vocab(self.model)
        self.n_vocab: int = llama_cpp.llama_vocab_n_tokens(self.vocab)
        params = llama_cpp.llama_context_default_params()
        params.n_ctx, params.n_batch, params.n_ubatch = n_ctx, 2048, n_ubatch
        params.n_seq_max, params.kv_unified = n_seq, unified
        params.n_threads = params.n_threads_batch = 1
        kinds = (kv, kv) if isinstance(kv, str) else kv
        params.type_k, params.type_v = (KV_TYPES[kind] for kind in kinds)
        params.flash_attn_type = -1 if flash is None else int(flash)
        params.no_perf = False
        if on_tensor:
            self._on_tensor = llama_cpp.ggml_backend_sched_eval_callback(on_tensor)
            params.cb_eval = self._on_tensor
        for name, value in (more or {}).items():
            setattr(params, name, value)
        self.ctx = llama_cpp.llama_init_from_model(self.model, params)
        assert self.ctx, f"no context for {path}"

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, err: BaseException | None, tb: TracebackType | None
    ) -> None:
        llama_cpp.llama_free(self.ctx)
        llama_cpp.llama_model_free(self.model)

    @property
    def memory(self) -> Any:
        return llama_cpp.llama_get_memory(self.ctx)

    @property
    def n_reused(self) -> int:
        """Decodes that reused the graph of the one before."""
        return int(llama_cpp.llama_perf_context(self.ctx).n_reused)

    def decode(self, tokens: Sequence[int], pos: int, seq: int = 0) -> F32:
        """Decode `tokens` from position `pos` on; the logits after each."""
        return self.decode_batch([(t, pos + i, (seq,)) for i, t in enumerate(tokens)])

    def decode_batch(self, tokens: Sequence[Token]) -> F32:
        """Decode tokens of any sequences in one batch; the logits after each."""
        batch = llama_cpp.llama_batch_init(len(tokens), 0, 4)
        batch.n_tokens = len(tokens)
        for i, (token, pos, seqs) in enumerate(tokens):
            batch.token[i], batch.pos[i], batch.logits[i] = token, pos, 1
            batch.n_seq_id[i] = len(seqs)
            for j, seq in enumerate(seqs):
                batch.seq_id[i][j] = seq
        status = llama_cpp.llama_decode(self.ctx, batch)
        llama_cpp.llama_batch_free(batch)
        assert status == 0, f"llama_decode returned {status}"
        flat = np.ctypeslib.as_array(
            llama_cpp.llama_get_logits(self.ctx), (len(tokens) * self.n_vocab,)
        )
        logits = flat.reshape(len(tokens), self.n_vocab)
        return logits[:, logits[0] != _FORBIDDEN]  # a copy

    def decode_each(self, tokens: Iterable[int], pos: int, seq: int = 0) -> F32:
        """As `decode`, with one call for every token."""
        return np.concatenate([self.decode([t], pos + i, seq) for i, t in enumerate(tokens)])

    def remove(self, begin: int, end: int, seq: int = 0) -> None:
        """Take positions `begin` to `end` - 1 from the sequence, as stock llama.cpp does."""
        assert llama_cpp.llama_memory_seq_rm(self.memory, seq, begin, end)

    def share(self, source: int, target: int) -> None:
        """Make the cells of sequence `source` cells of `target` too."""
        llama_cpp.llama_memory_seq_cp(self.memory, source, target, -1, -1)

    def last_pos(self, seq: int = 0) -> int:
        """Position of the newest token, by llama.cpp's word."""
        return int(llama_cpp.llama_memory_seq_pos_max(self.memory, seq))


class AttentionLog:
    """Softmax weights of every token, taken from the graph of a context without flash attention.

    Give `watch` to a `Session`; the cells of a fresh cache are filled in the order of the tokens.
    """

    def __init__(self) -> None:
        base = ctypes.CDLL(llama_cpp.llama_cpp._lib._name)  # finds the symbols of libggml-base too
        self._name = base.ggml_get_name
        self._name.restype, self._name.argtypes = ctypes.c_char_p, [ctypes.c_void_p]
        self._copy = base.ggml_backend_tensor_get
        self._copy.restype = None
        self._copy.argtypes = [ctypes.c_void_p] * 2 + [ctypes.c_size_t] * 2
        self._parts: dict[int, list[F32]] = {}

    def watch(self, tensor: int, ask: bool, _: int | None) -> bool:
        name = self._name(tensor).decode()
        if name.startswith("kq_soft_max-") and not ask:
            # struct ggml_tensor: type, buffer, then ne[4]
            ne = (ctypes.c_int64 * 4).from_address(tensor + 16)
            part = np.empty((ne[2], ne[1], ne[0]), np.float32)
            self._copy(tensor, part.ctypes.data, 0, part.nbytes)
            self._parts.setdefault(int(name.rpartition("-")[2]), []).append(part)
        return name.startswith("kq_soft_max-")

    def weights(
        self,
        n_head_kv: int,
        queries: Sequence[int],
        n_cells: int,
        layers: Sequence[int] | None = None,
    ) -> F32:
        """Sum over `queries` (numbers of tokens) and the heads of each KV group.

        Of all layers that attend, or of some.

        Returns
        -------
        float32 (layer, KV head, cell)
        """
        sums = []
        for layer in sorted(self._parts) if layers is None else layers:
            rows = np.concatenate(
                [_widen(part, n_cells)[:, :, :n_cells] for part in self._parts[layer]], axis=1
            )
            chosen = rows[:, list(queries)].sum(axis=1)
            sums.append(chosen.reshape(n_head_kv, -1, n_cells).sum(axis=1))
        return np.stack(sums)


def _widen(part: F32, n_cells: int) -> F32:
    return np.pad(part, ((0, 0), (0, 0), (0, max(0, n_cells - part.shape[2]))))


def random_tokens(n: int, seed: int = 5) -> list[int]:
    """Tokens that every tiny model has, without control tokens."""
    return np.random.default_rng(seed).integers(3, 370, n).tolist()


def error(logits: npt.NDArray[Any], expected: npt.NDArray[Any]) -> float:
    """Largest difference, relative to the largest logit."""
    return float(np.abs(logits - expected).max() / np.abs(expected).max())
