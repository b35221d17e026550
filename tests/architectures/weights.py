"""Random weights for any tensor of any architecture, by its name."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

F32 = npt.NDArray[np.float32]
Shape = tuple[int, ...]
Make = Callable[[np.random.Generator, Shape], npt.NDArray[np.floating]]

_LOGITS = 3.0  # their standard deviation: greedy choices then rarely hang on rounding


def random_weights(
    rng: np.random.Generator, name: str, shape: Shape, *, peaky: float, embedding: float
) -> F32:
    """Weights that keep activations near unit variance and make attention peaked.

    Parameters
    ----------
    peaky
        Standard deviation of the attention logits before the softmax.
    embedding
        Standard deviation of the tokens' embeddings.
    """
    if name == "token_embd.weight":
        return embedding * rng.standard_normal(shape, np.float32)
    make = next(make for pattern, make in _RULES if re.search(pattern, name))
    weights = make(rng, shape).astype(np.float32)
    return weights * np.float32(np.sqrt(peaky)) if re.search(_SHARP, name) else weights


def output_weights(rng: np.random.Generator, shape: Shape) -> F32:
    """The output matrix, which may be that of the embeddings too.

    Control tokens get logits near 0, far below the best, so that a random model does not stop
    early; byte tokens are damped, so that it writes mostly printable text.
    """
    weights = _matrix(_LOGITS)(rng, shape)
    weights[:3] *= 0.05
    weights[3:259] *= 0.25
    return weights.astype(np.float32)


def _matrix(scale: float) -> Make:
    """Maps inputs of unit variance to outputs of variance ``scale**2``."""
    return lambda rng, shape: rng.normal(0.0, scale / np.sqrt(shape[-1]), shape)


def _normal(std: float) -> Make:
    return lambda rng, shape: rng.normal(0.0, std, shape)


def _uniform(low: float, high: float) -> Make:
    return lambda rng, shape: rng.uniform(low, high, shape)


# in Q and in K: their product then has the scale `peaky`
_SHARP = r"attn_(q|k|qkv)\.weight|attn_[qk]_norm\.weight"

# the first that matches; vectors near one are not all equal, so that a forgotten one shows
_RULES: tuple[tuple[str, Make], ...] = (
    (r"\.bias$|sinks", _normal(0.3)),
    (r"rope_f", _uniform(1.0, 4.0)),
    (r"altup_.*coef", _matrix(0.1)),
    (r"\.ssm_a$", _uniform(-1.0, -0.05)),
    (r"norm|scale|_ln\.|\.ssm_d$", _uniform(0.8, 1.2)),
    (r"", _matrix(1.0)),
)
