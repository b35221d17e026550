"""What the model is asked: sheets of facts and questions, and the cells that each method gets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from scope_cpp.engine.budget import cells, parse_budget
from scope_cpp.engine.memory import free_memory
from scope_cpp.engine.settings import Settings
from scope_cpp.errors import UsageError
from scope_cpp.reference.task import ReferenceSample, stated_answers

if TYPE_CHECKING:
    from scope_cpp.engine.model import Model

SHARE = 9
"""Without a budget the output gets a cell for each so many of its tokens."""


@dataclass(frozen=True)
class Sheet:
    """A sample, and what it takes.

    Attributes
    ----------
    sample : ReferenceSample
    n_prompt, n_output : int
        Tokens of the prompt, and of the right output with its end.
    n_cells : int
        Cells of prompt and output together that a bounded method may hold.
    """

    sample: ReferenceSample
    n_prompt: int
    n_output: int
    n_cells: int

    def marks(self, text: str) -> tuple[bool, ...]:
        """Whether each question is answered right in an output; none stated is wrong."""
        stated = stated_answers(text)
        answers = enumerate(self.sample.answers, start=1)
        return tuple(stated.get(i) == answer for i, answer in answers)

    def n_reached(self, text: str) -> int:
        """Number of the last question that an output has come to."""
        known = [i for i in stated_answers(text) if 1 <= i <= len(self.sample.answers)]
        return max(known, default=0)


def make_sheets(
    model: Model, samples: Sequence[ReferenceSample], beta: int | None, budget: str | None
) -> list[Sheet]:
    """Count tokens, and give each sheet its cells.

    Parameters
    ----------
    beta
        Cells of the output; ``None``: a ninth of its tokens.
    budget
        Cells of prompt and output in a form of `scope_cpp.engine.budget`, instead of `beta`.

    Raises
    ------
    UsageError
        If the cells are too few, or a text is longer than what the model was trained on.
    """
    sheets = []
    for sample in samples:
        n_prompt = len(model.tokenize(sample.prompt))
        n_output = len(model.tokenize(sample.expected, add_special=False)) + 1
        n_text = n_prompt + n_output
        if n_text > model.n_ctx_train:
            raise UsageError(
                f"{sample.id} takes {n_text} tokens, {model.path.name} was trained on "
                f"{model.n_ctx_train} positions: give fewer --questions"
            )
        n_cells = _cells(model, n_prompt, n_output, beta, budget)
        if n_cells <= n_prompt:
            raise UsageError(
                f"the budget is {n_cells} cells, the prompt alone takes {n_prompt}: give a larger "
                f"--budget, such as {n_prompt + n_output // SHARE}"
            )
        sheets.append(Sheet(sample, n_prompt, n_output, n_cells))
    return sheets


def _cells(model: Model, n_prompt: int, n_output: int, beta: int | None, budget: str | None) -> int:
    if budget is None:
        pool = max(2, n_output // SHARE) if beta is None else beta
        return n_prompt + min(pool, n_output)
    from scope_cpp.engine.forecast import Forecast  # it loads llama.cpp, and help needs this module

    with Forecast(model) as forecast:
        return cells(
            parse_budget(budget),
            n_prompt=n_prompt,
            n_predict=n_output,
            taken=forecast.taken(Settings(), full=n_prompt + n_output),
            free_memory=free_memory(gpu=model.offloaded),
        )
