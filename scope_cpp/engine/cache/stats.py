"""What a bounded cache counts and times."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class CacheStats:
    """Counters of one sequence.

    Attributes
    ----------
    cells_used, cells_peak
        Cells now and at most.
    dead_rows
        Rows of these cells that attention does not see now, because a layer keeps fewer than
        another one: the mean over layers. Memory follows the cells, attention what is left.
    evicted, selections
        Cells freed; how often a policy chose.
    attention_loss
        Share of the attention, in the queries scored at a selection, that fell on rows which that
        selection gave up: the mean over selections, 0 where the policy reads no attention.
    query_bytes
        Bytes of main memory, beside the cache, in queries of the prompt that weigh new cells.
    score_seconds, select_seconds, move_seconds
        Time in native scores, in the policy, in native moves.
    """

    cells_used: int = 0
    cells_peak: int = 0
    dead_rows: float = 0.0
    evicted: int = 0
    selections: int = 0
    attention_loss: float = 0.0
    query_bytes: int = 0
    score_seconds: float = 0.0
    select_seconds: float = 0.0
    move_seconds: float = 0.0
