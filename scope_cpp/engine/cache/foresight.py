"""The prompt's last queries, collected while it is read, and asked again about each new cell."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scope_cpp.engine.context import Context
from scope_cpp.native import kv_evict
from scope_cpp.policies.scores.foresight import VALUE_WEIGHT, Asked, EachLayer

# cells whose rows are read at once while the prompt is gone through
CHUNK = 64
# products of a layer from which on threads gain more than it takes to wake them
MANY = 2**16
# queries that are kept take no more memory, and no more time for each token, than this
MOST_BYTES = 16 * 2**20
# the largest float16: a query beyond it attends to one cell, whatever its length
MOST = np.float32(65504)


class Foresight:
    """What weighs the new cells of one sequence.

    In main memory NumPy does it. Where cells lie on a device it is done there, so that no rows go
    to and fro: the queries are handed over once, and what competed for them is read when someone
    asks for it.
    """

    def __init__(self, context: Context, seq: int) -> None:
        self.context, self.seq = context, seq
        self.on_device = kv_evict.memory(context.ptr)["cells"][1] > 0
        self._asked: Asked | None = None
        # whether a device has these queries, and went through more cells since
        self._handed_over = self._goes_on = False
        self._collected: NDArray[np.float16] | None = None
        self._n_asked = self._n_end = self._pos = 0

    @property
    def asked(self) -> Asked | None:
        """Queries of the prompt that weigh new cells; ``None`` if the policy wants none."""
        if self._asked is not None and self._goes_on:
            n_query = self._asked.queries.shape[2]
            prompt, output = kv_evict.ahead_get(self.context.ptr, self.seq, n_query)
            self._asked = replace(self._asked, prompt=prompt, output=output)
            self._goes_on = False
        return self._asked

    @asked.setter
    def asked(self, asked: Asked | None) -> None:
        self._asked = asked
        self._handed_over = self._goes_on = False

    @property
    def weighs(self) -> bool:
        """Whether there is something that weighs new cells."""
        return self._asked is not None

    def begin_prompt(self, ahead: int, n_read: int, n_end: int, pos: int) -> None:
        """Collect queries of a prompt of which `n_read` tokens are read, up to position `n_end`.

        Those of its last `ahead` tokens at most, as they would be at `pos`. Of none if that is 0.
        """
        self._n_asked = queries_kept(self.context.ptr, n_asked(ahead, n_read)) if ahead else 0
        self._n_end, self._pos = n_end, pos

    def chunk_size(self, n_left: int, size: int, ring: int) -> int:
        """Tokens of a prompt to read at once, of `n_left`: queries to be kept fit into the ring."""
        if not self._n_asked or min(n_left, size) <= ring:
            return size
        before = n_left - self._n_asked
        return min(size, before if before > 0 else ring)

    def collect(self, n_query: int, n_past: int) -> None:
        """Keep the last `n_query` recorded queries, if they are wanted, `n_past` tokens being read.

        They are collected in place: a prompt's queries are large.
        """
        end = self._n_asked - (self._n_end - n_past)
        n = min(n_query, end)
        if not self._n_asked or n <= 0:
            return
        queries = kv_evict.queries(self.context.ptr, self.seq, n, self._pos)
        if self._collected is None or self._collected.shape[2] != self._n_asked:
            shape = (*queries.shape[:2], self._n_asked, queries.shape[3])
            self._collected = np.zeros(shape, np.float16)
        np.clip(queries, -MOST, MOST, out=queries)
        self._collected[:, :, end - n : end] = queries

    def begin(self) -> None:
        """End the prompt: the queries that were collected weigh what comes now."""
        queries, self._collected = self._collected, None
        self.asked = self._none()
        if queries is not None and self._n_asked:
            self.asked = Asked.anew(queries)

    def read_prompt(
        self,
        pos: NDArray[np.int32],
        ids: NDArray[np.int32],
        n_prompt: int,
        layers: NDArray[np.bool_],
    ) -> None:
        """Go through the prompt's rows, in those of `layers` in which that was not done yet.

        Parameters
        ----------
        pos
            int32 (layer, KV head, n): true positions of the rows; -1 where one is dead.
        ids
            int32 (n,): the cells that they are in.
        n_prompt
            Position behind the prompt.
        layers
            bool (layer,).
        """
        assert self._asked is not None
        new = layers & ~self._asked.read
        if not new.any() or not self._asked.prompt.size:
            return
        others = (pos < 0) | (pos >= n_prompt)
        columns = np.flatnonzero(~others[new].all(axis=(0, 1)))
        if self.on_device:
            self._hand_over()
            left_out = np.ascontiguousarray(others[:, :, columns])
            kv_evict.ahead_prompt(self.context.ptr, self.seq, ids[columns], left_out, new)
            self._asked = replace(self._asked, read=self._asked.read | new)
            return
        asked = self._asked
        for first in range(0, columns.size, CHUNK):
            at = columns[first : first + CHUNK]
            keys = kv_evict.rows(self.context.ptr, self.seq, ids[at])
            asked = asked.with_prompt(keys, others[:, :, at], self._each(asked, keys), new)
        self._asked = replace(asked, read=asked.read | new)

    @property
    def n_bytes(self) -> int:
        """Bytes that are kept for the output."""
        return 0 if self._asked is None else sum(part.nbytes for part in vars(self._asked).values())

    def end(self) -> None:
        """Forget all queries."""
        if self._handed_over:
            none = self._none()
            kv_evict.ahead_set(self.context.ptr, self.seq, none.queries, none.prompt, none.output)
        self.asked = self._collected = None

    def weigh(
        self,
        ids: NDArray[np.int32],
        n_new: int,
        by_head: bool,
        layers: NDArray[np.bool_],
        compares: bool,
    ) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
        """Weigh the last `n_new` of the cells `ids` in some layers, and compare them with others.

        Returns
        -------
        weights
            float32 (layer, query head, n_new), or the highest of a KV group; see `Asked.weigh`.
        likeness
            As `kv_evict.likeness` returns it, or ``None``.
        """
        assert self._asked is not None
        ptr, value_weight = self.context.ptr, VALUE_WEIGHT if compares else None
        if self.on_device:
            weighs = self._hand_over()
            found, likeness = kv_evict.ahead(
                ptr,
                self.seq,
                ids,
                n_new,
                layers,
                weighs=weighs,
                by_head=by_head,
                value_weight=value_weight,
            )
            self._goes_on |= weighs
            if found is None:  # without queries
                n_out = kv_evict.n_head(ptr) if by_head else kv_evict.n_head_kv(ptr)
                found = np.zeros((layers.size, n_out, n_new), np.float32)
                found[layers] = 1
            return found, likeness
        likeness = None
        if value_weight is not None:
            likeness = kv_evict.likeness(
                ptr, self.seq, ids, n_new, value_weight=value_weight, layers=layers
            )
        keys = kv_evict.rows(ptr, self.seq, ids[-n_new:].copy())  # those of all layers at once
        # last, when nothing can fail any more: these cells have been gone through then
        weights, self._asked = self._asked.weigh(keys, self._each(self._asked, keys), layers)
        if not by_head:
            n_layer, n_head_kv = kv_evict.n_layer(ptr), kv_evict.n_head_kv(ptr)
            weights = weights.reshape(n_layer, n_head_kv, -1, n_new).max(axis=2)
        return weights, likeness

    def _hand_over(self) -> bool:
        """Let the device have the queries, if there are any; return whether there are."""
        asked = self._asked
        if asked is None or not asked.prompt.size:
            return False
        if not self._handed_over:
            parts = map(np.ascontiguousarray, (asked.queries, asked.prompt, asked.output))
            kv_evict.ahead_set(self.context.ptr, self.seq, *parts)
            self._handed_over = True
        return True

    def _none(self) -> Asked:
        """No queries."""
        ptr = self.context.ptr
        return Asked.anew(np.empty((kv_evict.n_layer(ptr), kv_evict.n_head(ptr), 0, 1), np.float16))

    def _each(self, asked: Asked, keys: NDArray[np.float32]) -> EachLayer:
        """How to go through the layers: on several threads where there is much to do."""
        n_products = asked.prompt[0].size * keys.shape[2]
        return self.context.each if n_products >= MANY else map


def queries_kept(ptr: Any, n: int) -> int:
    """Queries of a prompt that are kept of the last `n`: so many that they take `MOST_BYTES`."""
    numbers = kv_evict.n_layer(ptr) * kv_evict.n_head(ptr) * kv_evict.head_size(ptr)
    return min(n, MOST_BYTES // max(1, 2 * numbers))


def n_asked(ahead: int, n_read: int) -> int:
    """Tokens whose queries are asked again, of `n_read` that are read for one output.

    The second half at most: what is asked for stands behind what is told.
    """
    return min(ahead, (n_read + 1) // 2)
