"""What a conversation's cells hold: its parts, and the positions that a head keeps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from scope_cpp.engine.cache.bounded import BoundedCache
from scope_cpp.engine.cached_turns import CachedTurns
from scope_cpp.engine.model import Model
from scope_cpp.engine.turns import Region, count_cells
from scope_cpp.errors import UsageError


@dataclass(frozen=True)
class Pool:
    """A part of a conversation and its cells; see `Region` for the kinds."""

    kind: str
    turn: int
    n_tokens: int
    n_cells: int
    bytes: int


def find_pools(cached: CachedTurns) -> list[Pool]:
    """Parts of a conversation in order, with the cells that each has."""
    regions = _joined([region for turn in cached.turns for region in turn.all_regions()])
    pos = cached.cache.positions()
    lengths = [region.stop - region.start for region in regions]
    counts = count_cells(pos, regions) if pos.shape[0] else lengths
    size = cached.cache.footprint.kv // max(1, cached.context.n_cells)
    return [
        Pool(region.kind, region.turn, n_tokens, n_cells, n_cells * size)
        for region, n_tokens, n_cells in zip(regions, lengths, counts, strict=True)
    ]


def _joined(regions: Sequence[Region]) -> list[Region]:
    """Regions of which those that follow each other and are of the same kind and turn are one."""
    joined: list[Region] = []
    for region in regions:
        last = joined[-1] if joined else None
        if last is not None and (last.kind, last.turn) == (region.kind, region.turn):
            joined[-1] = replace(last, stop=region.stop)
        else:
            joined.append(region)
    return joined


def find_kept(cache: BoundedCache, model: Model, layer: int, head: int) -> NDArray[np.bool_]:
    """Whether each position has its row in a layer of the model and a KV head: bool (n_past,).

    Raises
    ------
    UsageError
        If there is no such layer or head.
    """
    heads = {one.layer: one.n_head_kv for one in model.cell_layers}
    if not 0 <= head < heads.get(layer, 0):
        layers = ", ".join(map(str, heads))
        raise UsageError(
            f"there is no layer {layer} with KV head {head}: layers with a cache are {layers}, "
            f"KV heads 0 to {heads.get(layer, max(heads.values(), default=0)) - 1}"
        )
    pos = cache.positions()
    marks = np.full(cache.n_past, not pos.shape[0])
    if pos.shape[0]:
        marks[pos[list(heads).index(layer), head]] = True
    return marks
