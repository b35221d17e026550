"""What models and contexts are created with; plain Python, so that help can show it."""

from __future__ import annotations

from dataclasses import dataclass

SPLIT_MODES = ("none", "layer", "row", "tensor")  # enum llama_split_mode, in its order
FLASH_ATTN = {"auto": -1, "off": 0, "on": 1}
# Tokens of a physical batch where the plain attention was chosen for the user
PLAIN_UBATCH = 128
# llama.cpp rounds the size of a cache up to this
CELLS_MULTIPLE = 256


def round_up(n_cells: int) -> int:
    """Cells that llama.cpp allocates for `n_cells`."""
    return -(-n_cells // CELLS_MULTIPLE) * CELLS_MULTIPLE


@dataclass(frozen=True)
class ContextParams:
    """What a context is created with, in llama.cpp's terms.

    Attributes
    ----------
    n_cells
        Cells to allocate; llama.cpp rounds up to a multiple of 256.
    type_k, type_v
        ggml types of the K and V cache.
    n_batch, n_ubatch
        Tokens of a logical and of a physical batch.
    n_threads, n_threads_batch
        CPU threads for decode and for prefill; 0: one for each physical core.
    flash_attn
        ``"auto"``, ``"on"`` or ``"off"``.
    n_seq_max
        Sequences that the unified cache holds at once.
    n_slots
        How many of them are written at once: the queries of so many are recorded; 0: of all.
    n_outputs
        Tokens of a batch whose logits are wanted, at most; 0: one for each sequence. Buffers for
        those of a whole batch, llama.cpp's default, take more than the cells do where the
        vocabulary is large.
    """

    n_cells: int
    type_k: int = 1
    type_v: int = 1
    n_batch: int = 2048
    n_ubatch: int = 512
    n_threads: int = 0
    n_threads_batch: int = 0
    flash_attn: str = "auto"
    n_seq_max: int = 1
    n_slots: int = 0
    n_outputs: int = 0
    offload_kqv: bool = True
