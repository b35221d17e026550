"""Outputs that end by repeating themselves."""

from __future__ import annotations

from collections.abc import Sequence

WINDOW = 128
TIMES = 4
LEAST = 16


def find_loop(tokens: Sequence[int]) -> int:
    """Return the period of the repetition that an output ends in, 0 if there is none.

    An output ends in a loop if, among its last `WINDOW` tokens, the last ones are one cycle at
    least `TIMES` times in a row, over `LEAST` tokens or more: a cycle of up to 32 tokens four
    times, a single token sixteen times. The shortest such cycle counts.

    Parameters
    ----------
    tokens
        Of the output, without the one that ends a generation.
    """
    last = list(tokens[-WINDOW:])
    for period in range(1, WINDOW // TIMES + 1):
        span = max(TIMES * period, LEAST)
        if span > len(last):
            return 0
        end = last[-span:]
        if end[period:] == end[:-period]:
            return period
    return 0
