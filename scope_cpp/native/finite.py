"""What a model computes must be numbers: samplers and policies would make nonsense of others."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from scope_cpp.errors import ScopeError
from scope_cpp.native.lifetime import Pointer


def require_finite(computed: NDArray[Any], what: str, ctx: Any) -> NDArray[Any]:
    """Return what a context computed, if no number of it is NaN or infinite.

    If one is, the context is `Pointer.tainted` from then on.

    Raises
    ------
    ScopeError
    """
    if np.isfinite(computed).all():
        return computed
    if isinstance(ctx, Pointer):
        ctx.tainted = True
    raise ScopeError(
        f"the model computes {what} that are NaN or infinite: its file is damaged, or numbers "
        "overflow; download it again, or try another -ctk, -ctv or -fa"
    )


def require_logits(logits: NDArray[np.float32], ctx: Any) -> NDArray[np.float32]:
    """Return logits that tell tokens apart: finite, and not all the same.

    Raises
    ------
    ScopeError
    """
    require_finite(logits, "logits", ctx)
    if logits.size > 1 and logits[0] == logits[-1] and (logits == logits[0]).all():
        raise ScopeError(
            f"the model computes the same logit, {logits[0]:g}, for every token: its file is "
            "damaged, or numbers overflow; download it again"
        )
    return logits
