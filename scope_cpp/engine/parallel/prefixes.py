"""Prompts that lie whole in the cache, for later ones that begin alike. No llama.cpp here."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

# Sharing fewer tokens is not worth a sequence that rests
LEAST = 32


class Prefixes:
    """Which tokens lie at the beginning of which sequence, least recently used first.

    Attributes
    ----------
    resting
        Sequences of no row, in the order in which they are to be given up.
    """

    def __init__(self) -> None:
        self._longer: set[int] = set()
        self._prompts: dict[int, NDArray[np.int32]] = {}
        self.resting: list[int] = []

    def add(self, seq: int, tokens: Sequence[int]) -> None:
        """Note that sequence `seq` begins with `tokens`."""
        self._prompts[seq] = np.array(tokens, np.int32)

    def remove(self, seq: int) -> None:
        """Forget a sequence; unknown ones are ignored."""
        self._prompts.pop(seq, None)
        self._longer.discard(seq)
        if seq in self.resting:
            self.resting.remove(seq)

    def shorten(self, seq: int, n: int) -> None:
        """Note that only the first `n` tokens of a sequence are left."""
        self._prompts[seq] = self._prompts[seq][:n]
        self._longer.discard(seq)

    def find(self, tokens: Sequence[int], n_most: int) -> tuple[int, int]:
        """Return the sequence that begins most alike, and in how many tokens; at most `n_most`.

        Returns
        -------
        seq, n
            -1 and 0 where none has `LEAST` in common.
        """
        wanted = np.array(tokens[:n_most], np.int32)
        alike = {seq: n_alike(prompt, wanted) for seq, prompt in self._prompts.items()}
        seq = max(alike, key=alike.__getitem__, default=-1)
        if seq < 0 or alike[seq] < LEAST:
            return -1, 0
        return seq, alike[seq]

    def touch(self, seq: int) -> None:
        """Note that a resting sequence was of use."""
        if seq in self.resting:
            self.resting.remove(seq)
            self.resting.append(seq)

    def rest_longer(self, seq: int) -> None:
        """Let a sequence rest that is more than what is known of it."""
        self._prompts.setdefault(seq, np.empty(0, np.int32))
        self._longer.add(seq)
        self.resting.append(seq)

    def rest(self, seq: int) -> list[int]:
        """Let a sequence rest that is known; return those that are of no more use.

        That is `seq` itself where another one begins with all of its tokens, else those that it
        begins with.
        """
        prompt = self._prompts[seq]
        for other in self.resting:
            if n_alike(self._prompts[other], prompt) == prompt.size:
                self.touch(other)
                return [seq]
        covered = [
            other
            for other in self.resting
            if other not in self._longer
            and n_alike(self._prompts[other], prompt) == self._prompts[other].size
        ]
        self.resting.append(seq)
        return covered


def n_alike(a: NDArray[np.int32], b: NDArray[np.int32]) -> int:
    """How many tokens two prompts have in common from the first on."""
    n = min(a.size, b.size)
    differ = np.flatnonzero(a[:n] != b[:n])
    return int(differ[0]) if differ.size else n
