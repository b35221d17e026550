"""How a budget is divided: integer rules shared by the policies."""

from __future__ import annotations

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


def check_budget(name: str, budget: int | None, minimum: int, parts: str) -> None:
    """Refuse a budget below `minimum`, in one line that says what the minimum is made of.

    Raises
    ------
    ValueError
        The budget is too small.
    """
    if budget is not None and budget < minimum:
        raise ValueError(
            f"{name}: budget {budget} is below the minimum of {minimum} cells ({parts})"
        )
