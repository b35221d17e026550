"""Numbers in prose: signs, thousands separators, decimals, fractions; currencies and units.

A number is exact (`fractions.Fraction`), so that 18, 18.00 and $18 are equal and 0.1 is 1/10.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator
from fractions import Fraction

_MARKUP = [
    (re.compile(r"\\[dt]?frac\{([^{}]*)\}\{([^{}]*)\}"), r"\1/\2"),
    (re.compile(r"\\[$%]|[$€£¥₹*]|\\[,!;]"), ""),
    (re.compile(r"\{,\}"), ","),
    (re.compile("[\N{MINUS SIGN}\N{EN DASH}\N{FULLWIDTH HYPHEN-MINUS}]"), "-"),
]
# a sign counts unless it stands between two operands, as in 10-3
_NUMBER = re.compile(
    r"""(?: (?<![\w).]) (?P<sign>[-+]) | (?<![A-Za-z_0-9]) )
        (?P<whole> [0-9]{1,3} (?:,[0-9]{3})+ (?![0-9]) | [0-9]+ | (?=\.[0-9]) )
        (?P<decimals> \.[0-9]+ )?
        (?: \s?/\s? (?P<below> [0-9]+ ) )?""",
    re.VERBOSE,
)
_MOST_DIGITS = 300


def numbers(text: str) -> Iterator[Fraction]:
    """Yield the numbers of a text, in order.

    What has more than a few hundred digits, or is divided by zero, is none.
    """
    for pattern, replacement in _MARKUP:
        text = pattern.sub(replacement, text)
    for match in _NUMBER.finditer(text):
        below = match["below"] or "1"
        if len(match[0]) > _MOST_DIGITS or not int(below):
            continue
        above = match["whole"].replace(",", "") + (match["decimals"] or "")
        value = Fraction(above) / int(below)
        yield -value if match["sign"] == "-" else value


def first_number(text: str) -> Fraction | None:
    """Return the first number of a text."""
    return next(numbers(text), None)


def last_number(text: str) -> Fraction | None:
    """Return the last number of a text."""
    return next(iter(deque(numbers(text), maxlen=1)), None)
