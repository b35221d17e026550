"""How much faster a bounded cache is than the full one would be, from one conversation's times.

The time for a token grows linearly with the cells that are used: each is read once. The line
through the times of tokens before which nothing was selected, drawn out to the cells that the full
cache would have by now, is what a token would take with it. It is an estimate: no other cache is
run. It is given only where the line's slope stands out of the noise of the times, and the estimate
differs from what was measured by more than its own error.
"""

from __future__ import annotations

import math

from scope_cpp.engine.generate import Stats

LEAST_SAMPLES = 100  # tokens
LEAST_ANSWER = 32  # tokens of the answer that is compared
LEAST_CELLS = 1.5  # times the cells that are used
FARTHEST = 20  # times the cells that were seen: beyond, the slope's error is the result
SIGNIFICANT = 4  # standard errors
APART = 2  # standard errors of the estimate: nearer to what was measured it says nothing
MOST_SHARE = 0.5  # of a token's time that cells may take: more is another program that began to run


class Growth:
    """The line of seconds over cells, by least squares."""

    def __init__(self) -> None:
        self._n = 0
        self._most = 0
        self._x = self._y = self._xx = self._xy = self._yy = 0.0
        self._before: Stats | None = None

    def note(self, stats: Stats) -> None:
        """Take note of a token.

        Parameters
        ----------
        stats
            After it; those of the token before must have been noted too, or it is passed over.
        """
        before, self._before = self._before, stats
        if before is None or stats.n_generated != before.n_generated + 1 or stats.n_generated < 3:
            return
        if stats.selections == before.selections:
            self.add(stats.cells_used, stats.generation_seconds - before.generation_seconds)

    def add(self, cells: int, seconds: float) -> None:
        """Add the time of a token that was decoded among so many cells."""
        self._n, self._most = self._n + 1, max(self._most, cells)
        self._x, self._y = self._x + cells, self._y + seconds
        self._xx, self._yy = self._xx + cells * cells, self._yy + seconds * seconds
        self._xy += cells * seconds

    def seconds(self, n_cells: int) -> float | None:
        """Time for a token with the full cache of `n_cells`, ``None`` where it is not known."""
        found = self._drawn_out(n_cells)
        return None if found is None else found[0]

    def _drawn_out(self, n_cells: int) -> tuple[float, float] | None:
        """Return `seconds`, and the standard error that the line's slope leaves in it."""
        if self._n < LEAST_SAMPLES or n_cells > FARTHEST * self._most:
            return None
        spread = self._xx - self._x**2 / self._n
        if spread <= 0:
            return None
        slope = (self._xy - self._x * self._y / self._n) / spread
        left = max(self._yy - self._y**2 / self._n - slope**2 * spread, 0.0)
        error = math.sqrt(left / (self._n - 2) / spread)
        mean_cells, mean = self._x / self._n, self._y / self._n
        if slope <= SIGNIFICANT * error or slope * mean_cells > MOST_SHARE * mean:
            return None
        farther = n_cells - mean_cells
        return mean + slope * farther, error * abs(farther)

    def times_faster(self, stats: Stats, n_past: int) -> float | None:
        """How many times faster the last answer was than with the full cache, if that is known.

        Parameters
        ----------
        stats
            Of an answer.
        n_past
            Tokens so far: the cells that the full cache would have.
        """
        if stats.n_generated < LEAST_ANSWER or n_past < LEAST_CELLS * stats.cells_used:
            return None
        # the full cache would have had so many cells in the middle of the answer
        found = self._drawn_out(n_past - stats.n_generated // 2)
        now = stats.generation_seconds / (stats.n_generated - 1)
        if found is None or now <= 0:
            return None
        full, error = found
        return full / now if abs(full - now) > APART * error else None
