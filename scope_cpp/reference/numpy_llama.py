"""A llama forward pass in plain NumPy, with a KV cache whose heads can hold different tokens.

Written from the definition of the model, not from llama.cpp, to be the second opinion on logits
and attention weights after an eviction. It is slow and holds one sequence.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from gguf import GGUFReader
from gguf.quants import dequantize

Array = npt.NDArray[Any]

# architecture -> whether rotary embedding pairs x[i] with x[i + half] ("neox") or with its
# neighbour (interleaved)
_NEOX_ROPE = {"llama": False, "mistral3": False, "qwen2": True, "qwen3": True, "phi3": True}


class NumpyLlama:
    """The model of a GGUF file, with a cache of rows per (layer, KV head).

    A row is the K and V of one token together with its true position. The rows of a head are in
    order of insertion; heads need not hold the same tokens. One that holds fewer has dead rows too,
    of position -1, which no query sees.

    Parameters
    ----------
    path : str or Path
        A GGUF file of architecture llama (dense or mixture of experts), mistral3, qwen2, qwen3
        or phi3, without rope scaling.
    dtype : dtype
        Of all computation.
    kv_dtype : dtype, optional
        K and V are rounded to this when stored, as a cache of that type does.

    Attributes
    ----------
    n_layer, n_head, n_head_kv, head_dim : int
    attention : array (n_layer, n_head_kv, queries, rows)
        Softmax weights of the last `decode`, summed over the query heads that share a KV head.
        The rows include the ones that decode added; a row that the query cannot see has weight 0.
    attention_by_head : array (n_layer, n_head, queries, rows)
        The same for each query head.
    k, v : list of array (n_head_kv, rows, head_dim)
        The cache, by layer; K after rotary embedding.

    Raises
    ------
    ValueError
        When the file has another architecture or scales its positions.
    """

    def __init__(
        self,
        path: str | Path,
        dtype: npt.DTypeLike = np.float64,
        kv_dtype: npt.DTypeLike | None = None,
    ) -> None:
        reader = GGUFReader(path)
        self._fields = {name: field.contents() for name, field in reader.fields.items()}
        self._arch = str(self._fields["general.architecture"])
        self._check_supported()
        self._dtype = np.dtype(dtype)
        self._kv_dtype = self._dtype if kv_dtype is None else np.dtype(kv_dtype)
        self._weights = {
            tensor.name: np.array(dequantize(tensor.data, tensor.tensor_type), self._dtype)
            for tensor in reader.tensors
        }
        self.n_layer = int(self._field("block_count"))
        self.n_head = int(self._field("attention.head_count"))
        self.n_head_kv = int(self._field("attention.head_count_kv", self.n_head))
        width = int(self._field("embedding_length"))
        self.head_dim = int(self._field("attention.key_length", width // self.n_head))
        self._eps = float(self._field("attention.layer_norm_rms_epsilon"))
        self._frequencies = self._rope_frequencies()
        self.reset()

    def reset(self) -> None:
        """Forget all tokens."""
        empty = np.zeros((self.n_head_kv, 0, self.head_dim), self._dtype)
        self.k = [empty] * self.n_layer
        self.v = [empty] * self.n_layer
        self._pos = np.zeros((self.n_layer, self.n_head_kv, 0), np.int32)
        self.attention: Array = np.zeros((self.n_layer, self.n_head_kv, 0, 0), self._dtype)

    def positions(self) -> npt.NDArray[np.int32]:
        """Return the true position of every cached row, (n_layer, n_head_kv, rows); -1 if dead."""
        return self._pos.copy()

    def evict(self, keep: npt.NDArray[np.bool_]) -> None:
        """Keep the rows marked in `keep` (n_layer, n_head_kv, rows), per layer and head.

        Raises
        ------
        ValueError
            When the shape is another one.
        """
        if keep.shape != self._pos.shape or keep.dtype != np.bool_:
            raise ValueError(f"keep must be bool of shape {self._pos.shape}, is {keep.shape}")
        kept = keep & (self._pos >= 0)
        counts = kept.sum(axis=2, keepdims=True)
        # those that stay first, each group in its order
        rows = np.argsort(~kept, axis=2, kind="stable")[:, :, : int(counts.max())]
        for layer, order in enumerate(rows[..., None]):
            self.k[layer] = np.take_along_axis(self.k[layer], order, axis=1)
            self.v[layer] = np.take_along_axis(self.v[layer], order, axis=1)
        alive = np.arange(rows.shape[2]) < counts
        self._pos = np.where(alive, np.take_along_axis(self._pos, rows, axis=2), np.int32(-1))

    def decode(self, tokens: Sequence[int], pos: int) -> Array:
        """Read `tokens` at positions `pos`, `pos` + 1, …, and return the logits after each.

        A token attends to the rows whose true position is not larger than its own.

        Returns
        -------
        array (len(tokens), vocabulary)
        """
        at = np.arange(pos, pos + len(tokens), dtype=np.int32)
        added = np.broadcast_to(at, (*self._pos.shape[:2], len(tokens)))
        self._pos = np.concatenate([self._pos, added], axis=2)
        attention = []
        x = self._weights["token_embd.weight"][list(tokens)]
        for layer in range(self.n_layer):
            mixed, weights = self._attend(layer, self._norm(x, f"blk.{layer}.attn_norm"), at)
            attention.append(weights)
            x = x + mixed
            x = x + self._feed_forward(layer, self._norm(x, f"blk.{layer}.ffn_norm"))
        self.attention_by_head = np.stack(attention)
        grouped = self.attention_by_head.reshape(
            self.n_layer, self.n_head_kv, -1, *self.attention_by_head.shape[2:]
        )
        self.attention = grouped.sum(axis=2)
        head = "output" if "output.weight" in self._weights else "token_embd"
        return self._linear(self._norm(x, "output_norm"), head)

    def _check_supported(self) -> None:
        if self._arch not in _NEOX_ROPE:
            raise ValueError(f"no NumPy model of architecture {self._arch!r}")
        if self._field("rope.scaling.type", "none") != "none":
            raise ValueError("no NumPy model of rope scaling")

    def _field(self, name: str, default: Any = None) -> Any:
        value = self._fields.get(f"{self._arch}.{name}", default)
        if value is None:
            raise ValueError(f"the file has no {self._arch}.{name}")
        return value

    def _rope_frequencies(self) -> Array:
        n_rot = int(self._field("rope.dimension_count", self.head_dim))
        base = float(self._field("rope.freq_base", 10000.0))
        frequencies = base ** (-np.arange(0, n_rot, 2, dtype=np.float64) / n_rot)
        return np.asarray(frequencies / self._weights.get("rope_freqs.weight", 1.0))

    def _linear(self, x: Array, name: str) -> Array:
        y = x @ self._weights[f"{name}.weight"].T
        return np.asarray(y + self._weights.get(f"{name}.bias", 0))

    def _norm(self, x: Array, name: str) -> Array:
        scale = np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + self._eps)
        return np.asarray(x / scale * self._weights[f"{name}.weight"])

    def _rope(self, x: Array, at: Array) -> Array:
        """Rotate x (tokens, heads, head_dim); dimensions beyond the rotated ones pass through."""
        angle = at[:, None, None] * self._frequencies
        cos, sin = np.cos(angle).astype(self._dtype), np.sin(angle).astype(self._dtype)
        half = len(self._frequencies)
        distance, step = (half, 1) if _NEOX_ROPE[self._arch] else (1, 2)
        first = np.arange(half) * step
        second = first + distance
        y = x.copy()
        y[..., first] = x[..., first] * cos - x[..., second] * sin
        y[..., second] = x[..., first] * sin + x[..., second] * cos
        return y

    def _qkv(self, layer: int, x: Array) -> tuple[Array, Array, Array]:
        """Return Q, K, V (tokens, heads, head_dim) before rotary embedding."""
        block = f"blk.{layer}."
        if f"{block}attn_qkv.weight" in self._weights:
            joined = self._linear(x, f"{block}attn_qkv")
            n_q, n_kv = self.n_head * self.head_dim, self.n_head_kv * self.head_dim
            parts = np.split(joined, [n_q, n_q + n_kv], axis=1)
        else:
            parts = [self._linear(x, f"{block}attn_{name}") for name in "qkv"]
        q, k, v = (part.reshape(len(x), -1, self.head_dim) for part in parts)
        if f"{block}attn_q_norm.weight" in self._weights:
            q, k = self._norm(q, f"{block}attn_q_norm"), self._norm(k, f"{block}attn_k_norm")
        return q, k, v

    def _attend(self, layer: int, x: Array, at: Array) -> tuple[Array, Array]:
        """Return the attention output (tokens, width) and weights (n_head, tokens, rows)."""
        q, k, v = self._qkv(layer, x)
        self._append(layer, self._rope(k, at), v)
        grouped = self._rope(q, at).reshape(len(x), self.n_head_kv, -1, self.head_dim)
        logits = grouped.transpose(1, 2, 0, 3) @ self.k[layer][:, None].swapaxes(2, 3)
        pos = self._pos[layer][:, None, None, :]
        unseen = (pos > at[:, None]) | (pos < 0)
        weights = _softmax(np.where(unseen, -np.inf, logits / np.sqrt(self.head_dim)))
        mixed = (weights @ self.v[layer][:, None]).transpose(2, 0, 1, 3).reshape(len(x), -1)
        by_head = weights.reshape(self.n_head, *weights.shape[2:])
        return self._linear(mixed, f"blk.{layer}.attn_output"), by_head

    def _append(self, layer: int, k: Array, v: Array) -> None:
        for cache, rows in ((self.k, k), (self.v, v)):
            stored = rows.astype(self._kv_dtype).astype(self._dtype).swapaxes(0, 1)
            cache[layer] = np.concatenate([cache[layer], stored], axis=1)

    def _feed_forward(self, layer: int, x: Array) -> Array:
        block = f"blk.{layer}."
        if f"{block}ffn_gate_inp.weight" in self._weights:
            return self._experts(block, x)
        if f"{block}ffn_gate.weight" in self._weights:
            gate, up = self._linear(x, f"{block}ffn_gate"), self._linear(x, f"{block}ffn_up")
        else:
            gate, up = np.split(self._linear(x, f"{block}ffn_up"), 2, axis=1)
        return self._linear(_silu(gate) * up, f"{block}ffn_down")

    def _experts(self, block: str, x: Array) -> Array:
        """Mix the best experts of each token, weighted by their share of the router's softmax."""
        router = _softmax(self._linear(x, f"{block}ffn_gate_inp"))
        best = np.argsort(-router, axis=1)[:, : int(self._field("expert_used_count"))]
        share = np.take_along_axis(router, best, axis=1)
        share /= share.sum(axis=1, keepdims=True)
        gate, up, down = (
            self._weights[f"{block}ffn_{name}_exps.weight"] for name in ("gate", "up", "down")
        )
        y = np.zeros_like(x)
        for token, (experts, shares) in enumerate(zip(best, share, strict=True)):
            for expert, weight in zip(experts, shares, strict=True):
                hidden = _silu(gate[expert] @ x[token]) * (up[expert] @ x[token])
                y[token] += weight * (down[expert] @ hidden)
        return y


def _softmax(x: Array) -> Array:
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return np.asarray(e / e.sum(axis=-1, keepdims=True))


def _silu(x: Array) -> Array:
    return np.asarray(x / (1 + np.exp(-x)))
