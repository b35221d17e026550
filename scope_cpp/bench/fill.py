"""Fills a cache to a depth without computing every token.

The time of a token depends on the number of cells, not on what is in them. So a chunk is computed
once and copied as often as needed, through the state of a sequence.
"""

from __future__ import annotations

import ctypes
import random
from collections.abc import Callable, Sequence
from copy import copy
from typing import Any

from scope_cpp.native.library import llama_cpp

CHUNK = 128

Decode = Callable[[Sequence[int], int], None]


def random_tokens(n: int, n_vocab: int, seed: int) -> list[int]:
    """Return `n` tokens of the vocabulary, as llama-bench draws its prompts."""
    draw = random.Random(seed)
    return [draw.randrange(n_vocab) for _ in range(n)]


def cells_without_gap(ctx: Any, *, from_0: bool = False) -> int:
    """Return the cells of sequence 0, from whose positions none is missing.

    Windows and recurrent states hide its first position, which is then taken to be 0 (`from_0`).
    """
    memory = llama_cpp.llama_get_memory(ctx)
    first = 0 if from_0 else int(llama_cpp.llama_memory_seq_pos_min(memory, 0))
    return int(llama_cpp.llama_memory_seq_pos_max(memory, 0)) - first + 1


class Filler:
    """Places cells in a sequence of a context that has a spare one.

    Parameters
    ----------
    ctx
        Its cache is empty, and stays so.
    decode
        Computes tokens from a position on, in that sequence.
    tokens
        What is computed, from the first one on as often as needed.
    n_batch
        Most tokens that `decode` takes.
    seq, spare
        The sequence, and one that is empty.
    """

    def __init__(
        self,
        ctx: Any,
        decode: Decode,
        tokens: Sequence[int],
        n_batch: int,
        seq: int = 0,
        spare: int = 1,
    ) -> None:
        self._ctx, self._decode = ctx, decode
        self._seq, self._spare = seq, spare
        self._tokens = tokens[: min(CHUNK, n_batch)]
        self._memory = llama_cpp.llama_get_memory(ctx)
        self._state: Any = None

    def take_chunk(self) -> None:
        """Compute the chunk and keep its cells aside."""
        self._decode(self._tokens, 0)
        size = llama_cpp.llama_state_seq_get_size(self._ctx, self._seq)
        self._state = (ctypes.c_uint8 * size)()
        written = llama_cpp.llama_state_seq_get_data(self._ctx, self._state, size, self._seq)
        if written != size:
            raise RuntimeError("llama.cpp did not give the state of the sequence")
        llama_cpp.llama_memory_clear(self._memory, False)

    def into(self, seq: int, spare: int, decode: Decode) -> Filler:
        """Return a filler of another sequence, with the same chunk."""
        other = copy(self)
        other._seq, other._spare, other._decode = seq, spare, decode
        return other

    def place(self, start: int, n: int) -> None:
        """Put `n` cells at positions ``start, start + 1, …``, behind those that there are.

        What does not divide into chunks is computed: so no cell is ever needed in between.
        """
        chunk = len(self._tokens)
        rest = n % chunk
        if rest:
            self._decode(self._tokens[:rest], start)
        for pos in range(start + rest, start + n, chunk):
            self._copy(pos)

    def _copy(self, pos: int) -> None:
        lib, memory, state, spare = llama_cpp, self._memory, self._state, self._spare
        if not lib.llama_state_seq_set_data(self._ctx, state, len(state), spare):
            raise RuntimeError("llama.cpp did not take the state of the sequence")
        lib.llama_memory_seq_add(memory, spare, 0, -1, pos)
        lib.llama_memory_seq_cp(memory, spare, self._seq, -1, -1)
        lib.llama_memory_seq_rm(memory, spare, -1, -1)
