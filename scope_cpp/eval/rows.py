"""Rows of a report: named configurations of the cache, all at the same number of cells in all.

A row's options may say ``beta`` or ``beta/2``: the cells beside the prompt, or a part of them. The
cells beside the prompt may themselves be a part of the output, such as ``1/6`` of its tokens.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

from scope_cpp.engine.budget import cells, parse_budget
from scope_cpp.engine.settings import DEFAULT_POLICY, Settings
from scope_cpp.errors import UsageError

_PART = re.compile(r"beta(?:/([1-9][0-9]*))?")


@dataclass(frozen=True)
class Row:
    """A configuration of the cache.

    Attributes
    ----------
    name
        Unique within a run.
    settings
        The engine's; its budget counts if `beta` is None.
    beta
        Cells beside the prompt, or a share of the longest output such as ``1/6``: the budget is
        then the prompt's tokens and these.
    parts
        ``key=beta/N``: options that depend on the cells beside the prompt.
    label
        The name without the budget and the types that it was made for.
    """

    name: str
    settings: Settings
    beta: int | str | None = None
    parts: tuple[str, ...] = ()
    label: str = ""

    @property
    def is_full(self) -> bool:
        """Whether nothing is ever evicted."""
        return self.settings.policy == "full" and self.settings.prefill == "full"

    @property
    def is_scope(self) -> bool:
        """Whether its decode policy is one of SCOPE's."""
        return (self.settings.policy or DEFAULT_POLICY).startswith("scope-")

    def settings_for(self, n_prompt: int, n_predict: int) -> Settings:
        """Return the settings for a prompt and a longest output of so many tokens.

        Raises
        ------
        UsageError
            If an option is a part of a budget that is not counted in cells.
        """
        if self.is_full:
            return replace(self.settings, budget=None)
        settings, beta = self.settings, 0
        if self.beta is not None:
            beta = self.beside(n_predict)
            settings = replace(settings, budget=n_prompt + beta)
        elif self.parts:
            beta = self._beside(n_prompt, n_predict)
        parts = tuple(_filled(part, beta) for part in self.parts)
        return replace(settings, options=settings.options + parts)

    def beside(self, n_predict: int) -> int:
        """Return the cells beside the prompt for a longest output of so many tokens."""
        if isinstance(self.beta, str):
            return max(1, int(Fraction(self.beta) * n_predict))
        return self.beta or 0

    def _beside(self, n_prompt: int, n_predict: int) -> int:
        budget = parse_budget(self.settings.budget)
        if budget.kind not in ("cells", "percent"):
            raise UsageError(
                f"{self.name}: {self.parts[0]} is a part of cells, the budget is {budget.text}: "
                "give --beta, or --budget in cells or per cent"
            )
        n_cells = cells(
            budget, n_prompt=n_prompt, n_predict=n_predict, taken=lambda n: 0, free_memory=0
        )
        return max(1, n_cells - n_prompt)

    def to_json(self) -> dict[str, Any]:
        """What an output depends on; threads and batches are left out."""
        settings = self.settings
        return {
            "name": self.name,
            "label": self.label or self.name,
            "policy": settings.policy or DEFAULT_POLICY,
            "prefill": settings.prefill,
            "granularity": settings.granularity,
            "options": [*settings.options, *self.parts],
            "beta": self.beta,
            "budget": settings.budget,
            "type_k": settings.type_k,
            "type_v": settings.type_v,
            "flash_attn": settings.flash_attn,
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Row:
        """Build a row from `to_json`."""
        options = [*values["options"]]
        parts = tuple(option for option in options if is_part(option))
        settings = Settings(
            **{name: values[name] for name in _OF_SETTINGS},
            options=tuple(option for option in options if not is_part(option)),
        )
        return cls(values["name"], settings, values["beta"], parts, values["label"])


_OF_SETTINGS = ("policy", "prefill", "granularity", "budget", "type_k", "type_v", "flash_attn")


def read_beta(text: str) -> int | str:
    """Return a number of cells, or a share of the output such as ``1/6`` in lowest terms.

    Raises
    ------
    UsageError
        If it is neither.
    """
    word = text.strip()
    if word.isascii() and word.isdigit() and int(word) > 0:
        return int(word)
    try:
        share = Fraction(word)
    except (ValueError, ZeroDivisionError):
        share = Fraction(0)
    if not 0 < share < 1:
        raise UsageError(
            f"--beta {text}: give a number of cells of at least 1, or a share of the output such "
            "as 1/6"
        )
    return str(share)


def is_part(option: str) -> bool:
    """Whether an option's value is ``beta`` or ``beta/N``."""
    return _PART.fullmatch(option.partition("=")[2].strip()) is not None


def _filled(option: str, beta: int) -> str:
    key, _, value = option.partition("=")
    match = _PART.fullmatch(value.strip())
    assert match is not None
    return f"{key}={max(1, beta // int(match[1] or 1))}"
