"""Sets of rows that a name in ``--rows`` stands for, made of the policies that there are.

A policy that is registered appears in them by itself; so does a rule that scores are folded by.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from scope_cpp.policies import decode_policies, prefill_policies

Values = dict[str, Any]

SCORED, FORESIGHT = "scope-slide", "scope-foresight"
"""The policy that scoring rules are compared in, and the one with a rule of its own."""

# one value of each option that changes what cells are ranked by, besides the rule
VARIANTS = (
    ("decay=0.99",),
    ("power=0.5",),
    ("lifetime=1",),
    ("values=1",),
    ("mix=0.5",),
    ("mix=0.5", "mix_over=model", "mix_by=max"),
    ("redundancy=0.5",),
    ("smooth=3",),
    ("span=4",),
    ("grace=8",),
)


def methods() -> dict[str, Values]:
    """Return every decode policy but the full cache, the prompt kept whole."""
    return {name: {"policy": name} for name in decode_policies() if name != "full"}


def scores() -> dict[str, Values]:
    """Return `SCORED` by every rule and each of `VARIANTS`; foresight with attention and alone."""
    from scope_cpp.policies.scores.folding import RULES  # with NumPy, which help does without

    told: list[tuple[str, ...]] = [(SCORED, f"score={rule}") for rule in RULES if rule != "none"]
    told += [(SCORED, *variant) for variant in VARIANTS]
    told += [(FORESIGHT,), (FORESIGHT, "score=none")]
    return {":".join(row): {"policy": row[0], "options": row[1:]} for row in told}


def prefills() -> dict[str, Values]:
    """Return every prefill policy but the whole prompt, under `FORESIGHT`.

    They drop something only where the budget is smaller than 4/3 of the prompt.
    """
    return {
        f"prefill {name}": {"policy": FORESIGHT, "prefill": name}
        for name in prefill_policies()
        if name != "full"
    }


SETS: dict[str, Callable[[], dict[str, Values]]] = {
    "methods": methods,
    "scores": scores,
    "prefills": prefills,
}


def named(text: str) -> Sequence[tuple[str, Values]]:
    """Return name and values of each row of the set ``NAME[:KEY=VALUE]...``; else an empty list."""
    name, *options = text.split(":")
    if name not in SETS:
        return ()
    return [
        (":".join((label, *options)), {**values, "options": (*values.get("options", ()), *options)})
        for label, values in SETS[name]().items()
    ]
