"""Values at and beyond the bounds that options declare, as a user would write them."""

from __future__ import annotations

from dataclasses import Field, fields
from typing import Any

from scope_cpp.policies.base import Policy

BEYOND = ("2147483647", "2147483648", str(2**63), str(10**30), "1e300", "1e-300")
WORDS = ("nan", "inf", "-inf", "-1", "0", "1", "0.5", "auto", "none", "x", "1e999", "9" * 5000)


def options(policy: type[Policy]) -> list[Field[Any]]:
    """Fields that a user can set."""
    return [item for item in fields(policy) if item.metadata]


def extremes(item: Field[Any]) -> list[str]:
    """What an option may be given at worst."""
    valid = item.metadata
    numbers = [valid["low"], valid["high"], (valid["low"] + min(valid["high"], 40)) / 2]
    near = [n + d for n in numbers if n != float("inf") for d in (-1, 0, 1, 2)]
    plain = [int(n) if n == int(n) else n for n in near]
    return [*valid["choices"], *map(str, dict.fromkeys(plain)), *BEYOND, *WORDS]
