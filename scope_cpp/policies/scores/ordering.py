"""Rows in the order of their positions, for numbers that depend on other rows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from scope_cpp.policies.base import FloatArray, View


def in_order(view: View, rank: Callable[[View], FloatArray]) -> FloatArray:
    """What `rank` makes of the view with its rows in the order of positions, (L, H, n).

    Neighbours are side by side then, and no sum depends on the order that the rows came in.
    """
    order = np.argsort(view.pos, axis=-1, kind="stable")

    def taken(rows: FloatArray | None) -> FloatArray | None:
        return None if rows is None else np.take_along_axis(rows, order[..., None], axis=2)

    ordered = replace(
        view,
        pos=np.take_along_axis(view.pos, order, axis=-1),
        scores=np.take_along_axis(view.scores, order, axis=-1),
        keys=taken(view.keys),
        values=taken(view.values),
    )
    ranked = np.empty_like(view.scores)
    np.put_along_axis(ranked, order, rank(ordered), axis=-1)
    return ranked
