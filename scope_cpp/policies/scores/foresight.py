"""What the prompt's queries would find in the cells of the output, were they asked again.

A generated token may be needed long after it was written, by a query that none so far was like:
past attention says nothing about it. The prompt often does, since its own tokens (the questions)
ask for what the answers will have to look up. So the last queries of the prompt are kept, turned by
RoPE to a position within the output, and every new cell is weighed once: by how much a query
prefers it to the other cells of the output, times how far its value is from what the prompt gives
to that query, plus the share that it takes from all cells,

    max_q  softmax_output(q·k_j) · ‖o_q − v_j‖ / mean ‖o‖  +  softmax_all(q·k_j).

A copy of what stands in the prompt has the value that the prompt gives anyhow, and weighs nothing;
what only the output knows weighs much.

Of our own making. Related: SnapKV (https://arxiv.org/abs/2404.14469) lets the prompt's last queries
choose among the prompt's cells, Expected Attention (https://arxiv.org/abs/2510.00636) models
future queries by a distribution, CAOTE (https://arxiv.org/abs/2504.14051) takes the distance of
values from the attention's output.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from scope_cpp.policies.base import BoolArray, FloatArray

TINY = np.float32(1e-12)
# in place of a product with a dead row: below all others
LOWEST = np.float32(-1e30)


@dataclass(frozen=True)
class Asked:
    """Queries that are asked again, what the prompt gives to them, and who competed so far.

    Attributes
    ----------
    queries
        float32 (L, query heads, q, D), times the attention's scale.
    answers
        float32 (L, query heads, q, D): softmax over the prompt's cells, times their values.
    prompt, output
        float32 (L, query heads, q): logarithm of the sum of exponentials over the prompt's cells,
        and over those of the output so far, evicted ones included; -inf without any.
    """

    queries: FloatArray
    answers: FloatArray
    prompt: FloatArray
    output: FloatArray

    @classmethod
    def anew(cls, queries: FloatArray, head_size: int) -> Asked:
        """Nothing was gone through yet; `head_size` is that of values."""
        none = np.full(queries.shape[:3], -np.inf, np.float32)
        answers = np.zeros((*queries.shape[:3], head_size), np.float32)
        return cls(queries, answers, none, none)

    def before_output(self) -> Asked:
        """As it was when nothing of the output was there."""
        return replace(self, output=np.full_like(self.output, -np.inf))

    def with_prompt(
        self, keys: FloatArray, values: FloatArray, dead: BoolArray | None = None
    ) -> Asked:
        """Go through cells of the prompt.

        Parameters
        ----------
        keys, values
            float32 (L, KV heads, n, D), of these cells.
        dead
            bool (L, n): rows that nothing attends to. Not all of a layer may be dead.
        """
        answers, totals = np.empty_like(self.answers), np.empty_like(self.prompt)
        # layer by layer: what lies between is as large as the attention of all queries
        for i in range(len(keys)):
            layer = slice(i, i + 1)
            found = products(self.queries[layer], keys[layer])
            if dead is not None:
                found = np.where(dead[layer, None, None], LOWEST, found)
            total = np.logaddexp(self.prompt[layer], log_total(found))
            found -= total[..., None]
            np.exp(found, out=found)
            grouped = found.reshape(1, keys.shape[1], -1, found.shape[-1])
            mixed = (grouped @ values[layer]).reshape(1, *answers.shape[1:])
            mixed += self.answers[layer] * np.exp(self.prompt[layer] - total)[..., None]
            answers[layer], totals[layer] = mixed, total
        return replace(self, answers=answers, prompt=totals)

    def weigh(self, keys: FloatArray, values: FloatArray) -> tuple[FloatArray, Asked]:
        """Weigh new cells of the output.

        Parameters
        ----------
        keys, values
            float32 (L, KV heads, n, D), of the new cells.

        Returns
        -------
        weights
            float32 (L, query heads, n), at least 0: the formula above.
        asked
            With these cells gone through.
        """
        found = products(self.queries, keys)
        output = np.logaddexp(self.output, log_total(found))
        everywhere = np.logaddexp(output, self.prompt)
        weights = np.exp(found - output[..., None])
        weights *= self._distances(values)
        weights += np.exp(found - everywhere[..., None])
        return weights.max(axis=2), replace(self, output=output)

    def _distances(self, values: FloatArray) -> FloatArray:
        """‖o_q − v_j‖ in mean lengths of the head's answers: (L, query heads, q, n)."""
        group = self.answers.shape[1] // values.shape[1]
        of_values = np.repeat(np.square(values).sum(axis=-1), group, axis=1)[:, :, None]
        of_answers = np.square(self.answers).sum(axis=-1, keepdims=True)
        square = of_values + of_answers - 2 * products(self.answers, values)
        scale = np.sqrt(of_answers).mean(axis=2, keepdims=True)
        distances: FloatArray = np.sqrt(np.maximum(square, 0)) / np.maximum(scale, TINY)
        return distances


def products(queries: FloatArray, keys: FloatArray) -> FloatArray:
    """Products of queries with the rows of their KV head.

    Parameters
    ----------
    queries
        float32 (L, query heads, q, D).
    keys
        float32 (L, KV heads, n, D).

    Returns
    -------
    float32 (L, query heads, q, n)
    """
    n_layer, n_head, n_query, size = queries.shape
    groups = queries.reshape(n_layer, keys.shape[1], -1, size)
    found: FloatArray = groups @ keys.transpose(0, 1, 3, 2)
    return found.reshape(n_layer, n_head, n_query, -1)


def log_total(found: FloatArray) -> FloatArray:
    """Logarithm of the sum of exponentials over the last axis, which is not empty."""
    highest = found.max(axis=-1, keepdims=True)
    total: FloatArray = np.log(np.exp(found - highest).sum(axis=-1)) + highest[..., 0]
    return total
