"""What a picture of a sequence's cells needs, small enough to go with a stream's chunks."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from scope_cpp.engine.generate import Stats

MOST_BINS = 1024


def picture(pos: NDArray[np.int32] | None, stats: Stats, most: int = MOST_BINS) -> dict[str, Any]:
    """Describe the cells of one sequence.

    Parameters
    ----------
    pos
        True positions of the rows of each head, int32 (layer, KV head, n), -1 where a row is dead;
        of shape (0, ...) if nothing is bounded: all is kept then. ``None`` for a sequence that is
        gone: its counts are told, its cells are not.
    stats
        Of the sequence.
    most
        Bins that positions are put into at most; a bin holds 1, 2, 4, ... of them.

    Returns
    -------
    dict
        ``used``, ``capacity``, ``evicted``: cells. ``n_prompt``, ``n_past``: positions read, and
        all. ``kept``: for each ``bin`` positions the share of their rows, over all heads, that are
        still there, 0 to 100. ``pools``: rows of a head (the mean) in the ``prompt``, in the
        ``history`` of the output, and its ``recent`` end, which every head has in full. ``at``:
        ``n_past`` and ``evicted`` when this was seen; later counts may be put over the others.
    """
    n_past = stats.n_prompt + max(0, stats.n_generated - 1)  # the last token is not decoded yet
    if pos is not None and pos.size:
        n_past = int(pos.max()) + 1
    told: dict[str, Any] = {
        "used": stats.cells_used,
        "capacity": stats.cells_capacity,
        "evicted": stats.evicted,
        "n_prompt": stats.n_prompt,
        "n_past": n_past,
    }
    if pos is None:
        return told
    shares = _shares(pos, n_past)
    n_prompt = min(stats.n_prompt, n_past)
    gone = np.flatnonzero(shares[n_prompt:] < 1)
    recent = n_prompt + (int(gone[-1]) + 1 if gone.size else 0)
    parts = np.split(shares, [n_prompt, recent])
    width = 1
    while width * most < n_past:
        width *= 2
    return told | {
        "pools": {
            name: round(float(part.sum()), 1)
            for name, part in zip(("prompt", "history", "recent"), parts, strict=True)
        },
        "bin": width,
        "at": {"n_past": n_past, "evicted": stats.evicted},
        "kept": [round(100 * float(part.mean())) for part in _bins(shares, width)],
    }


def _shares(pos: NDArray[np.int32], n_past: int) -> NDArray[np.float64]:
    """Share of the heads that have each position: float64 (n_past,)."""
    n_heads = pos.shape[0] * pos.shape[1]
    if n_heads == 0:
        return np.ones(n_past)
    return np.bincount(pos[pos >= 0], minlength=n_past) / n_heads


def _bins(shares: NDArray[np.float64], width: int) -> list[NDArray[np.float64]]:
    return np.split(shares, np.arange(width, len(shares), width)) if len(shares) else []
