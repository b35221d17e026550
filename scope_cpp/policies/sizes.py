"""How a budget is divided: integer rules shared by the policies."""

from __future__ import annotations

from collections.abc import Sequence

DEFAULT_POOL = 512
"""Cells for heavy hitters and recent tokens when no budget is given: the paper's β1 + β2."""


def split(
    room: int | None, heavy: int | None, recent: int | None, default: int = DEFAULT_POOL
) -> tuple[int, int]:
    """Sizes of the heavy hitters and of the recent tokens.

    What is given stays. A missing one gets the rest of `room`; two missing ones get half each,
    the odd cell going to the heavy hitters. Without a room (None) a missing one gets half of
    `default`. The caller has checked that what is given fits (`check_budget`).
    """
    if room is None:
        half = default // 2
        return half if heavy is None else heavy, half if recent is None else recent
    if recent is None:
        recent = max(1, room // 2) if heavy is None else room - heavy
    return room - recent if heavy is None else heavy, recent


def least(heavy: int | None, recent: int | None) -> int:
    """Fewest cells for the two: what is given, else no heavy hitter and one recent token."""
    return (heavy or 0) + (1 if recent is None else recent)


class TooSmall(ValueError):
    """A budget is too small; there is none below `minimum` that is not.

    Parameters
    ----------
    message
        What is wrong, in one line.
    minimum
        A larger budget may be too small as well, if sizes are derived from it.
    options
        Those that were given, and would need less if they were smaller.
    """

    def __init__(self, message: str, minimum: int, options: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.minimum, self.options = minimum, options


def check_budget(
    name: str, budget: int | None, minimum: int, parts: str, **given: int | None
) -> None:
    """Refuse a budget below `minimum`, in one line that says what the minimum is made of.

    Parameters
    ----------
    name, budget, minimum, parts
    given
        Options that the minimum is made of, where they are given.

    Raises
    ------
    TooSmall
        The budget is too small.
    """
    if budget is not None and budget < minimum:
        raise TooSmall(
            f"{name}: budget {budget} is below the minimum of {minimum} cells ({parts})",
            minimum,
            [option for option, value in given.items() if value],
        )


def sum_of(**parts: int | None) -> str:
    """Return parts of a minimum as a sum, without those that are none.

    >>> sum_of(prompt=33, beta1=256, beta2=1, slack=0)
    'prompt 33 + beta1 256 + beta2 1'
    """
    return " + ".join(f"{name} {n}" for name, n in parts.items() if n)
