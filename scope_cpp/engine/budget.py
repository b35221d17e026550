"""The budget dial: how many cells the KV cache may have.

Accepted forms, case ignored::

    2048, 2k              cells; k is 1024
    50%                   of the full length, prompt + output
    512MiB, 1.5GiB        as many as fit into these bytes, with every buffer that belongs to them
                          (`footprint`): all but the weights. KiB MiB GiB TiB are powers of 1024,
                          KB MB GB TB of 1000
    auto                  as many as fit into half of the free memory of the device with the cache
    (none)                the prompt and 1024 generated cells

Half of the free memory, because other programs need some too and because free memory is only a
snapshot. A budget is never more than the full length: further cells could not be filled.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Literal

from scope_cpp.engine.kv_types import KV_TYPES, KVType, bytes_per_cell, kv_type
from scope_cpp.engine.memory import free_memory
from scope_cpp.errors import UsageError, WrongValue

__all__ = [
    "DEFAULT_GENERATED_CELLS",
    "KV_TYPES",
    "Budget",
    "KVType",
    "bytes_per_cell",
    "cells",
    "format_bytes",
    "free_memory",
    "kv_type",
    "parse_budget",
]

DEFAULT_GENERATED_CELLS = 1024
AUTO_SHARE_OF_FREE = 0.5
# more than any context has: where nothing else bounds the length
MOST_CELLS = 2**31 - 256

# The kinds of a budget that can be asked for, in words
FORMS = {
    "cells": "cells (2048, 2k)",
    "percent": "a share of the full length (50%)",
    "bytes": "memory (512MiB, 1.5GiB)",
    "auto": "auto",
}
# of what has no length, such as a cache that many texts have in common
OF_NO_LENGTH = ("cells", "bytes", "auto")

_PATTERN = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*(|k|%|[kmgt]i?b)", re.IGNORECASE)
_POWERS = {"k": 1, "m": 2, "g": 3, "t": 4}


@dataclass(frozen=True)
class Budget:
    """A parsed budget.

    Attributes
    ----------
    kind : {"default", "auto", "cells", "percent", "bytes"}
    value : float
        Cells, per cent of the full length, or bytes; 0 for the other kinds.
    text, name : str
        What the user wrote, and of what, for messages.
    """

    kind: Literal["default", "auto", "cells", "percent", "bytes"]
    value: float = 0
    text: str = "default"
    name: str = "budget"


def parse_budget(
    budget: str | int | None,
    name: str = "budget",
    kinds: Collection[str] = tuple(FORMS),
    *,
    or_none: bool = False,
) -> Budget:
    """Parse a budget in one of the forms listed above.

    Parameters
    ----------
    budget
    name
        What the user knows it by.
    kinds
        Those of `FORMS` that are taken.
    or_none
        Whether 0 is taken.

    Raises
    ------
    WrongValue
        For anything else; the message lists the accepted forms.
    """
    if budget is None:
        return Budget("default", name=name)
    text = str(budget).strip()
    wanted = _wanted_forms(kinds, or_none)
    if text.lower() == "auto" and "auto" in kinds:
        return Budget("auto", text=text, name=name)
    match = _PATTERN.fullmatch(text)
    if match is None:
        raise WrongValue(name, f"{text!r} is not understood: give {wanted}")
    kind, value = _from_number(match[1], match[2].lower())
    if kind not in kinds:
        raise WrongValue(name, f"{text!r} can't be given: give {wanted}")
    if value == 0 and not or_none:
        raise WrongValue(name, f"{text!r} must be more than 0: give {wanted}")
    if kind == "percent" and value > 100:
        raise WrongValue(name, f"{text!r} is more than the full length: give at most 100%")
    if kind == "cells" and value != int(value):
        raise WrongValue(name, f"{text!r} is not a whole number of cells: give {wanted}")
    return Budget(kind, value if kind == "percent" else int(value), text, name)


def parse_size(text: str, name: str) -> int:
    """Return a number of bytes, given in units or as it is.

    Raises
    ------
    WrongValue
        If it is none.
    """
    match = _PATTERN.fullmatch(text.strip())
    if match is not None:
        kind, value = _from_number(match[1], match[2].lower())
        if kind != "percent" and value >= 1 and (match[2] or value.is_integer()):
            return int(value)
    raise WrongValue(name, f"{text!r} is no size: give bytes (4194304) or a size such as 4MiB")


def _wanted_forms(kinds: Collection[str], or_none: bool) -> str:
    *first, last = (*(FORMS[kind] for kind in kinds), *(["0"] if or_none else []))
    return f"{', '.join(first)} or {last}"


def _from_number(number: str, unit: str) -> tuple[Literal["cells", "percent", "bytes"], float]:
    value = min(float(number), 2.0**64)  # which nothing has
    if unit == "%":
        return "percent", value
    if unit.endswith("b"):
        base = 1024 if "i" in unit else 1000
        return "bytes", value * base ** _POWERS[unit[0]]
    return "cells", value * (1024 if unit == "k" else 1)


def cells(
    budget: Budget,
    *,
    n_prompt: int,
    n_predict: int | None,
    taken: Callable[[int], int],
    free_memory: int,
) -> int:
    """Return the number of cells that `budget` stands for, at most the full length.

    Parameters
    ----------
    budget : Budget
    n_prompt, n_predict : int
        Tokens of the prompt and of the longest output; `n_predict` None means no limit.
    taken : callable
        Bytes that so many cells take, with all that belongs to them; more for more cells.
    free_memory : int
        Bytes free on the device that holds the cache, see `free_memory`.

    Raises
    ------
    UsageError
        When the budget holds no cell, or its cells do not fit into the free memory.
    """
    full = None if n_predict is None else n_prompt + n_predict
    wanted = _wanted(budget, n_prompt, full, taken, free_memory)
    of = f"{budget.name} {budget.text}"
    if wanted < 1:
        least = _least(full, taken)
        if budget.kind == "auto":
            raise UsageError(
                f"{of} is half of the {format_bytes(free_memory)} of memory that are free, "
                f"but {least}: end other programs, or give smaller batches (-ub)"
            )
        raise UsageError(f"{of} is too small: {least}; give more")
    n_cells = wanted if full is None else min(wanted, full)
    needed = taken(n_cells)
    if needed > free_memory:
        raise UsageError(
            f"{of}: {n_cells} cells take {format_bytes(needed)} with the buffers that belong to "
            f"them, but {format_bytes(free_memory)} are free; give a smaller "
            f"--{budget.name.removeprefix('--')}, smaller batches (-ub) or a smaller KV cache type"
        )
    return n_cells


def _least(full: int | None, taken: Callable[[int], int]) -> str:
    """Say what takes least: a cell, or all of them, among which nothing has to be chosen."""
    one = taken(1)
    if full is not None and (whole := taken(full)) < one:
        return f"all {full} cells take {format_bytes(whole)} with the buffers that belong to them"
    return f"a single cell takes {format_bytes(one)} with the buffers that belong to it"


def usual_room(n_predict: int | None) -> int:
    """Return the cells for an output that an advised budget has beside the prompt."""
    return DEFAULT_GENERATED_CELLS if n_predict is None else min(n_predict, DEFAULT_GENERATED_CELLS)


def most_cells(taken: Callable[[int], int], room: int, full: int | None = None) -> int:
    """Return the most cells, of `full`, that take at most `room` bytes.

    `taken` may be anything at the full length, where nothing is evicted; before it never falls.
    """
    most = MOST_CELLS if full is None else full
    if taken(most) <= room:
        return most
    low, high = 0, 1
    while high < most and taken(high) <= room:
        low, high = high, 2 * high
    high = min(high, most)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if taken(middle) <= room else (low, middle)
    return low


def _wanted(
    budget: Budget,
    n_prompt: int,
    full: int | None,
    taken: Callable[[int], int],
    free_memory: int,
) -> int:
    if budget.kind == "default":
        return n_prompt + DEFAULT_GENERATED_CELLS
    if budget.kind == "cells":
        return int(budget.value)
    if budget.kind == "percent":
        if full is None:
            raise UsageError(
                f"{budget.name} {budget.text} is a share of the full length, which has no limit "
                "here: give the output length (-n) or a budget in cells"
            )
        return max(1, int(full * budget.value / 100))
    room = free_memory * AUTO_SHARE_OF_FREE if budget.kind == "auto" else budget.value
    return most_cells(taken, int(room), full)


def format_bytes(n: int) -> str:
    """Return `n` bytes in the largest unit of 1024 that keeps the number at 1 or more.

    >>> format_bytes(1536)
    '1.5 KiB'
    """
    size, unit = float(n), "B"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if size < 1024:
            break
        size, unit = size / 1024, larger
    return f"{size:.1f} {unit}".replace(".0 ", " ")
