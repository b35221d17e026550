"""Copies of sequences in main memory, for prompts that begin with their tokens. No llama.cpp here.

Where windows or recurrent states lie beside the cells, a sequence can't be cut where another
prompt parts from it. So it is copied as it is at such places, while it is read.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scope_cpp.engine.parallel.prefixes import LEAST, n_alike

# Prompts of earlier rows that new ones are compared with
SEEN = 32

Tokens = NDArray[np.int32]


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """All that was kept of a sequence after some tokens.

    Attributes
    ----------
    tokens
        All tokens of the sequence.
    state
        See `Context.read_state`.
    """

    tokens: Tokens
    state: NDArray[np.uint8]

    @property
    def n_bytes(self) -> int:
        """Bytes that it takes."""
        return self.tokens.nbytes + self.state.nbytes


class Checkpoints:
    """Checkpoints within a bound on their bytes; the least recently used are given up first.

    Parameters
    ----------
    most_bytes
        Bytes of all together.
    """

    def __init__(self, most_bytes: int) -> None:
        self.most_bytes = most_bytes
        self._kept: list[Checkpoint] = []
        self._seen: deque[Tokens] = deque(maxlen=SEEN)

    @property
    def n_bytes(self) -> int:
        """Bytes that they take."""
        return sum(kept.n_bytes for kept in self._kept)

    def find(self, tokens: Sequence[int], n_most: int) -> Checkpoint | None:
        """Return the longest that a prompt begins with, of `n_most` tokens at most."""
        return self._find(np.array(tokens[:n_most], np.int32))

    def n_known(self, tokens: Sequence[int]) -> int:
        """How many tokens of a prompt its longest checkpoint has; 0 without any."""
        return self._n_known(np.array(tokens, np.int32))

    def use(self, checkpoint: Checkpoint) -> None:
        """Note that a checkpoint was of use."""
        self._kept.remove(checkpoint)
        self._kept.append(checkpoint)

    def drop(self, checkpoint: Checkpoint) -> None:
        """Give up a checkpoint."""
        self._kept.remove(checkpoint)

    def give_way(self, n_bytes: int) -> bool:
        """Give up checkpoints until there is room for so many bytes; False if there never is."""
        if n_bytes > self.most_bytes:
            return False
        while self.n_bytes + n_bytes > self.most_bytes:
            del self._kept[0]
        return True

    def add(self, checkpoint: Checkpoint) -> None:
        """Keep a checkpoint, in place of one of the same tokens; see `give_way`."""
        self._kept = [
            one for one in self._kept if not np.array_equal(one.tokens, checkpoint.tokens)
        ]
        self.give_way(checkpoint.n_bytes)
        self._kept.append(checkpoint)

    def see(self, tokens: Sequence[int]) -> None:
        """Remember the tokens of a prompt, as far as a checkpoint would have served it."""
        if len(tokens) >= LEAST:
            self._seen.append(np.array(tokens, np.int32))

    def branch(self, tokens: Sequence[int], others: Iterable[Sequence[int]], start: int) -> int:
        """Return where later prompts are likely to part from this one; 0 if nothing tells.

        Of the places where those that were seen and those that wait (`others`) do, it is the one
        at which a checkpoint saves them the most tokens, beyond those that they have. None is
        near the `start`, where this one goes on from a checkpoint itself.
        """
        prompt = np.array(tokens, np.int32)
        ends: list[tuple[int, int]] = []  # what each has in common, and what of it is there
        for other in self._seen:
            # it stands for those to come, which have only what it has in common with this one
            n = n_alike(prompt, other)
            ends.append((n, self._n_known(prompt[:n])))
        for other in (np.array(other, np.int32) for other in others):
            ends.append((n_alike(prompt, other), self._n_known(other)))
        ends = [(n, known) for n, known in ends if n - max(known, start) >= LEAST]

        def saved(end: int) -> int:
            return sum(end - known for n, known in ends if n >= end and end - known >= LEAST)

        return max((n for n, _ in ends), key=saved, default=0)

    def _n_known(self, prompt: Tokens) -> int:
        found = self._find(prompt)
        return found.tokens.size if found is not None else 0

    def _find(self, prompt: Tokens) -> Checkpoint | None:
        begun = (one for one in self._kept if n_alike(one.tokens, prompt) == one.tokens.size)
        return max(begun, key=lambda one: one.tokens.size, default=None)
