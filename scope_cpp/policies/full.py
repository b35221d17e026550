"""Keep everything: the baseline, and the default for the prompt."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from typing_extensions import Self

from scope_cpp.policies.base import BoolArray, DecodePolicy, PrefillPolicy, Step, View
from scope_cpp.policies.sizes import check_budget


@dataclass(frozen=True)
class Full(DecodePolicy):
    """The full cache: nothing is ever evicted."""

    name: ClassVar[str] = "full"

    def resolve(self, budget: int | None, n_prompt_cells: int, n_predict: int | None) -> Self:
        """Check that prompt and output fit; see `DecodePolicy.resolve`."""
        minimum = n_prompt_cells + (n_predict or 0)
        check_budget(self.name, budget, minimum, f"prompt {n_prompt_cells} + output")
        return self

    def capacity(self, n_prompt_cells: int, n_predict: int | None) -> int:
        """Prompt and output; without a longest output there is no such number (ValueError)."""
        if n_predict is None:
            raise ValueError("full: the cache has no size while the longest output is unknown")
        return n_prompt_cells + n_predict

    def due(self, step: Step) -> bool:
        """Never."""
        return False

    def select(self, view: View) -> BoolArray:
        """Every row; ValueError if the limit asks for fewer."""
        return _all_rows(view)


@dataclass(frozen=True)
class FullPrefill(PrefillPolicy):
    """The whole prompt is kept."""

    name: ClassVar[str] = "full"

    def cells(self, n_prompt: int) -> int:
        """As many as the prompt has tokens."""
        return n_prompt

    def chunk(self, capacity: int) -> int:
        """All that there is room for: nothing is given up."""
        return capacity

    def select(self, view: View, final: bool) -> BoolArray:
        """Every row; ValueError if the limit asks for fewer."""
        return _all_rows(view)


def _all_rows(view: View) -> BoolArray:
    if view.n_rows > view.limit:
        raise ValueError(f"full keeps all {view.n_rows} cells, {view.limit} are allowed")
    return np.ones(view.pos.shape, dtype=np.bool_)
