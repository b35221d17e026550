"""Asking a policy which rows stay: about all layers at once, or about one after the other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from scope_cpp.errors import ScopeError
from scope_cpp.policies.base import View
from scope_cpp.policies.select import count

Bool = NDArray[np.bool_]
Select = Callable[[View], Bool]


# options may ask for powers that overflow: what is no number then ranks lowest (`select.finite`)
@np.errstate(all="ignore")
def choose(select: Select, view: View, stay: Bool, by_layer: bool) -> Bool:
    """Mark the rows that stay, in the shape of the view's positions; dead rows never do.

    Parameters
    ----------
    select
        What the policy does. It sees neither dead rows nor cells that `stay` whatever it says.
    view
        All rows; those of position -1 are dead, the same ones in all heads of a layer.
    stay
        bool (n,): cells that another sequence has too, or that are held.
    by_layer
        Ask about each layer on its own; needed where there are dead rows.

    Raises
    ------
    ScopeError
        If the policy keeps more than the limit leaves beside these cells, or not the newest row.
    """
    own = np.flatnonzero(~stay)
    limit = view.limit - int(stay.sum())
    keep = np.ones(view.pos.shape, np.bool_)
    if not by_layer:
        keep[:, :, own] = _ask(select, _part(view, slice(None), own, limit))
        return keep
    for layer in range(len(keep)):
        dead = view.pos[layer, 0] < 0
        keep[layer, :, dead] = False
        rows = own[~dead[own]]
        part = _part(view, slice(layer, layer + 1), rows, limit)
        part = replace(part, layer=layer, n_layers=len(keep))
        keep[layer][:, rows] = _ask(select, part)[0]
    return keep


def _ask(select: Select, view: View) -> Bool:
    chosen = select(view)
    if count(chosen).max() > view.limit or not chosen[:, :, -1].all():
        raise ScopeError("the policy kept more cells than allowed, or not the newest")
    return chosen


def _part(view: View, layers: slice, rows: NDArray[np.intp], limit: int) -> View:
    return replace(
        view,
        pos=view.pos[layers].take(rows, axis=2),
        scores=view.scores[..., layers, :, :].take(rows, axis=-1),
        keys=None if view.keys is None else view.keys[layers].take(rows, axis=2),
        values=None if view.values is None else view.values[layers].take(rows, axis=2),
        limit=limit,
        n_held=view.limit - limit,
    )
