"""The numbers that a setting may have, and what to say of others; plain Python, for the help."""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

from scope_cpp.errors import UsageError, WrongValue

INT32_MAX = 2**31 - 1


@dataclass(frozen=True)
class Range:
    """The values that a number may have.

    Attributes
    ----------
    kind
        ``float`` (a whole number will do) or ``int``.
    low, high
        Least and greatest value.
    openai
        The same where OpenAI's interface allows less; `low` and `high` otherwise.
    """

    kind: type[float] | type[int]
    low: float
    high: float
    openai: tuple[float, float] | None = None

    @property
    def wanted(self) -> str:
        """What to give, in words."""
        what = "a whole number" if self.kind is int else "a number"
        return f"{what} within {_shown(self.low)} to {_shown(self.high)}"

    def check(self, name: str, value: Any) -> float | int:
        """Return `value` as a number of Python's own.

        Raises
        ------
        WrongValue
            If it is none of these; the user knows it by `name`.
        """
        kind = Integral if self.kind is int else Real
        number = isinstance(value, kind) and not isinstance(value, bool)
        if not number or not self.low <= value <= self.high:  # false for NaN
            raise WrongValue(name, f"is {value!r}: give {self.wanted}")
        return value if isinstance(value, (int, float)) else self.kind(value)

    def parse(self, text: str) -> float | int:
        """Return the number that is written in `text`.

        Raises
        ------
        ValueError
            If it is none of these.
        """
        number = float(text)
        value = int(number) if self.kind is int and number.is_integer() else number
        try:
            return self.check("", value)
        except UsageError as err:
            raise ValueError(str(err)) from None


def _shown(bound: float) -> str:
    return str(bound) if isinstance(bound, int) else f"{bound:g}"
