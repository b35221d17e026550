"""An independent llama that is fed the tokens of a cache and made to hold the same rows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from scope_cpp.reference.numpy_llama import NumpyLlama

Array = npt.NDArray[Any]

_TYPES = {"f16": np.float16, "f32": np.float32}


class Mirror:
    """`NumpyLlama` with the attention that every token got, by true position.

    Attributes
    ----------
    queries : list of float64 (layer, query head, position)
        For every query since `forget`, its softmax weights.
    """

    def __init__(self, path: Path, kv: str, n_max: int) -> None:
        self.model = NumpyLlama(path, kv_dtype=_TYPES[kv])
        self.n_past = 0
        self._shape = self.model.n_layer, self.model.n_head_kv, n_max
        self.queries: list[Array] = []

    def forget(self) -> None:
        """Drop the attention so far."""
        self.queries.clear()

    def held(self) -> npt.NDArray[np.int32]:
        """True positions of the rows, ascending, -1 of dead ones: (layer, KV head, n)."""
        return np.sort(self.model.positions(), axis=2)

    def hold(self, positions: npt.NDArray[np.int32]) -> None:
        """Evict the rows that are not among `positions`, (layer, KV head, n); -1 is none."""
        # the last column takes what is dead
        marks = np.zeros((*self._shape[:2], self._shape[2] + 1), np.bool_)
        np.put_along_axis(marks, positions, True, axis=2)
        marks[:, :, -1] = False
        self.model.evict(np.take_along_axis(marks, self.model.positions(), axis=2))

    def decode(self, tokens: Sequence[int]) -> Array:
        """Decode tokens at the next positions; logits after the last."""
        logits = self.model.decode(tokens, self.n_past)
        self.n_past += len(tokens)
        for query in range(len(tokens)):
            got = self.model.attention_by_head[:, :, query]
            weights = np.zeros((*got.shape[:2], self._shape[2] + 1))
            np.put_along_axis(weights, self.by_head(self.model.positions()), got, axis=2)
            self.queries.append(weights[:, :, :-1])
        return np.asarray(logits[-1])

    def by_head(self, rows: Array) -> Array:
        """Repeat what a KV head has for the query heads of its group."""
        return np.repeat(rows, self.model.n_head // self.model.n_head_kv, axis=1)

    def pooled(self, weights: Array, whole_cells: bool) -> Array:
        """Weights as a policy sees them: the largest of all heads, or each KV group's sum."""
        if whole_cells:
            return np.asarray(weights.max(axis=(0, 1), keepdims=True))
        n_layer, n_head_kv, n = self._shape
        return np.asarray(weights.reshape(n_layer, n_head_kv, -1, n).sum(axis=2))
