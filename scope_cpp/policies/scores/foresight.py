"""What the prompt's queries would find in the cells of the output, were they asked again.

A generated token may be needed long after it was written, by a query that none so far was like:
past attention says nothing about it. The prompt often does, since its own tokens (the questions)
ask for what the answers will have to look up. So the last queries of the prompt are kept, turned by
RoPE to a position behind the prompt, and every new cell j is weighed once: by how much a query
prefers it to the other cells of the output, and by the share that it takes from all cells,

    w_j = max_q  softmax_output(q·k_j) + softmax_all(q·k_j).

Much of an output repeats what stands elsewhere (the question again, a fact that was looked up), and
a query that prefers such a cell would find the same in its double. So a weight is multiplied by how
unlike the cell is to all that were there when it was written,

    u_j = 1 − max_{i<j} (cos(k_i, k_j) + ½ cos(v_i, v_j)) / 1½,

to a power. u needs no query at all, and alone it does half the work.

Of our own making. Related: SnapKV (https://arxiv.org/abs/2404.14469) lets the prompt's last queries
choose among the prompt's cells, Expected Attention (https://arxiv.org/abs/2510.00636) models
future queries by a distribution, R-KV (https://arxiv.org/abs/2505.24133) takes the likeness of keys
from the scores.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from scope_cpp.policies.base import BoolArray, FloatArray

# beside the keys' cosine, in the likeness of two cells
VALUE_WEIGHT = 0.5

# in place of a product with a dead row: below all others
LOWEST = np.float32(-1e30)
# cells from which on BLAS is faster with them in the rows; few cells are turned there afterwards
WIDE = 64
# exponents are kept below it: nothing overflows, and what is divided by it is nothing
MOST = np.float32(80)


Result = TypeVar("Result")


class EachLayer(Protocol):
    """Applies a function to numbers of layers, as ``map`` does."""

    def __call__(
        self, function: Callable[[int], Result], layers: Iterable[int], /
    ) -> Iterable[Result]:
        """Return the results in the order of the layers."""


@dataclass(frozen=True)
class Asked:
    """Queries that are asked again, and who competed so far.

    Attributes
    ----------
    queries
        float16 (L, query heads, q, D), times the attention's scale. Without any, all weigh 1.
    prompt, output
        float32 (L, query heads, q): logarithm of the sum of exponentials over the prompt's cells,
        and over those of the output so far, evicted ones included; -inf without any.
    read
        bool (L,): layers in which all of the prompt's cells were gone through.
    """

    queries: NDArray[np.float16]
    prompt: FloatArray
    output: FloatArray
    read: BoolArray

    @classmethod
    def anew(cls, queries: NDArray[np.float16]) -> Asked:
        """Nothing was gone through yet."""
        none = np.full(queries.shape[:3], -np.inf, np.float32)
        return cls(queries, none, none, np.zeros(len(queries), np.bool_))

    def before_output(self) -> Asked:
        """As it was when nothing of the output was there."""
        return replace(self, output=np.full_like(self.output, -np.inf))

    def with_prompt(
        self,
        keys: FloatArray,
        others: BoolArray | None = None,
        each: EachLayer = map,
        layers: BoolArray | None = None,
    ) -> Asked:
        """Go through cells of the prompt.

        Parameters
        ----------
        keys
            float32 (L, KV heads, n, D), of these cells.
        others
            bool (L, KV heads, n): rows that are left out: not of the prompt, or dead.
        each
            Applies a function to the layers; as ``map``, or on several threads at once.
        layers
            bool (L,): those that are gone through; ``None``: all.
        """
        wanted = np.arange(len(keys)) if layers is None else np.flatnonzero(layers)

        def total(i: int) -> FloatArray:
            found = products(self.queries[i], keys[i])
            if others is not None:
                found[others[i]] = LOWEST
            before = self.prompt[i].reshape(len(found), 1, -1)
            highest = _exponentials(found, before)
            sums = found.sum(axis=1, keepdims=True) + np.exp(before - highest)
            logs: FloatArray = (highest + np.log(sums)).reshape(self.prompt[i].shape)
            return logs

        prompt = self.prompt.copy()
        for i, logs in zip(wanted, each(total, wanted), strict=True):
            prompt[i] = logs
        return replace(self, prompt=prompt)

    def weigh(
        self, keys: FloatArray, each: EachLayer = map, layers: BoolArray | None = None
    ) -> tuple[FloatArray, Asked]:
        """Weigh new cells of the output.

        Parameters
        ----------
        keys
            float32 (L, KV heads, n, D), of the new cells.
        each
            As for `with_prompt`.
        layers
            bool (L,): those that are gone through; ``None``: all.

        Returns
        -------
        weights
            float32 (L, query heads, n), within 0 to 2: w of the module's formula. 0 in layers that
            are not gone through.
        asked
            With these cells gone through.
        """
        n_layer, n_head, n_query = self.prompt.shape
        n_head_kv, n = keys.shape[1:3]
        wanted = np.arange(n_layer) if layers is None else np.flatnonzero(layers)
        weights = np.zeros((n_layer, n_head, n), np.float32)
        if n_query == 0:
            weights[wanted] = 1
            return weights, self

        def weights_and_total(i: int) -> tuple[FloatArray, FloatArray]:
            found = products(self.queries[i], keys[i])
            before = self.output[i].reshape(n_head_kv, 1, -1)
            prompt = self.prompt[i].reshape(n_head_kv, 1, -1)
            highest = _exponentials(found, before)
            output = found.sum(axis=1, keepdims=True) + np.exp(before - highest)
            everywhere = output + np.exp(np.minimum(prompt - highest, MOST))
            found *= 1 / output + 1 / everywhere
            most = found.reshape(n_head_kv, n, -1, n_query).max(axis=3)
            total = (highest + np.log(output)).reshape(n_head, n_query)
            return most.transpose(0, 2, 1).reshape(n_head, n), total

        # layer by layer: what lies between is as large as the attention of all queries
        totals = self.output.copy()
        for i, found in zip(wanted, each(weights_and_total, wanted), strict=True):
            weights[i], totals[i] = found
        return weights, replace(self, output=totals)


def products(queries: NDArray[np.float16], keys: FloatArray) -> FloatArray:
    """Products of queries with the rows of their KV head.

    Parameters
    ----------
    queries
        float16 (query heads, q, D), finite.
    keys
        float32 (KV heads, n, D).

    Returns
    -------
    float32 (KV heads, n, query heads of the group times q)
        What is summed up or compared over cells lies side by side for all queries: NumPy is several
        times faster at that than along a short last axis.
    """
    groups = widened(queries).reshape(len(keys), -1, queries.shape[2])
    if keys.shape[1] >= WIDE:
        return keys @ groups.transpose(0, 2, 1)
    return np.ascontiguousarray((groups @ keys.transpose(0, 2, 1)).transpose(0, 2, 1))


def widened(halves: NDArray[np.float16]) -> FloatArray:
    """Finite float16 as float32, as ``astype`` does, in an eighth of the time.

    Sign and mantissa are moved to their places; the exponent's, 5 bits of bias 15, to the lowest of
    8 bits of bias 127, which a multiplication by 2^112 makes up for, in subnormal numbers too.
    """
    bits = halves.view(np.int16).astype(np.int32)
    bits <<= 13
    bits &= np.int32(-0x70002000)  # 0x8fffe000: the sign was spread over the bits below it
    wide = bits.view(np.float32)
    wide *= np.float32(2.0**112)
    return wide


def _exponentials(found: FloatArray, before: FloatArray) -> FloatArray:
    """Replace products by exponentials, relative to the highest of them and `before`: returned.

    Shapes are (KV heads, n, queries) and (KV heads, 1, queries).
    """
    highest: FloatArray = np.maximum(found.max(axis=1, keepdims=True), before)
    np.exp(np.subtract(found, highest, out=found), out=found)
    return highest


def unlikeness(likeness: FloatArray, n_head: int, power: float) -> FloatArray:
    """Take the power of u, the module's formula.

    Parameters
    ----------
    likeness
        float32 (L, KV heads, n): that of the cell it is most alike to; -1 without any.
    n_head
        Heads to answer for: KV heads, or the query heads of their groups.

    Returns
    -------
    float32 (L, n_head, n), within 0 to 1
    """
    power_of: FloatArray = np.clip(1 - likeness, 0, 1) ** np.float32(power)
    return np.repeat(power_of, n_head // likeness.shape[1], axis=1)
