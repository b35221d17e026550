"""Random weights for any tensor of any architecture, by its name."""

from __future__ import annotations

import re

import numpy as np
import numpy.typing as npt

F32 = npt.NDArray[np.float32]
Shape = tuple[int, ...]

_OUTPUT_SCALE = 3.0  # of the logits: greedy choices then rarely hang on rounding


def random_weights(
    rng: np.random.Generator, name: str, shape: Shape, peaky: float, *, tied: bool = False
) -> F32:
    """Weights that keep activations near unit variance and make attention peaked.

    Parameters
    ----------
    peaky
        Standard deviation of the attention logits before the softmax.
    tied
        Whether the embedding of the tokens is the output matrix too.
    """
    if tied and name == "token_embd.weight":
        return _tied(rng, shape).astype(np.float32)
    for pattern, make in _RULES:
        if re.search(pattern, name):
            return make(rng, shape, peaky).astype(np.float32)
    raise AssertionError("the last rule takes all")


def _matrix(rng: np.random.Generator, shape: Shape, peaky: float) -> F32:
    return rng.standard_normal(shape, np.float32) / np.sqrt(shape[-1])


def _sharp(rng: np.random.Generator, shape: Shape, peaky: float) -> F32:
    return np.sqrt(peaky) * _matrix(rng, shape, peaky)


def _small(rng: np.random.Generator, shape: Shape, peaky: float) -> F32:
    return 0.1 * _matrix(rng, shape, peaky)


def _bias(rng: np.random.Generator, shape: Shape, peaky: float) -> F32:
    return 0.3 * rng.standard_normal(shape, np.float32)


def _around_one(rng: np.random.Generator, shape: Shape, peaky: float) -> F32:
    return rng.uniform(0.8, 1.2, shape)


def _sharp_norm(rng: np.random.Generator, shape: Shape, peaky: float) -> F32:
    return np.sqrt(peaky) * rng.uniform(0.8, 1.2, shape)


def _output(rng: np.random.Generator, shape: Shape, peaky: float) -> F32:
    weights = _tied(rng, shape)
    weights[:3] = 0.0
    return weights


def _tied(rng: np.random.Generator, shape: Shape) -> F32:
    weights = _OUTPUT_SCALE * _matrix(rng, shape, 1.0)
    # control tokens get logits near 0, far below the best, so that a random model does not stop
    # early; byte tokens are damped, so that it writes mostly printable text
    weights[:3] *= 0.05
    weights[3:259] *= 0.25
    return weights


def _embedding(rng: np.random.Generator, shape: Shape, peaky: float) -> F32:
    return rng.standard_normal(shape, np.float32)


def _decay(rng: np.random.Generator, shape: Shape, peaky: float) -> F32:
    return -rng.uniform(0.05, 1.0, shape)


def _factors(rng: np.random.Generator, shape: Shape, peaky: float) -> F32:
    return rng.uniform(1.0, 4.0, shape)


# the first that matches
_RULES = (
    (r"^token_embd\.", _embedding),
    (r"^output\.weight", _output),
    (r"rope_f", _factors),
    (r"altup_.*coef", _small),
    (r"attn_[qk]_norm", _sharp_norm),
    (r"\.ssm_a$", _decay),
    (r"\.ssm_d$", _around_one),
    (r"norm.*\.weight|scale", _around_one),
    (r"\.bias$|sinks", _bias),
    (r"attn_(q|k|qkv)\.weight", _sharp),
    (r"", _matrix),
)
