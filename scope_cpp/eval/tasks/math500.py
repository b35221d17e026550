r"""MATH-500: competition problems with a final answer in ``\boxed{}``.

500 problems of MATH (Hendrycks et al., arXiv 2103.03874) as chosen by Lightman et al. (arXiv
2305.20050): ``problem``, ``answer``, and ``subject`` (the group), ``level``, ``unique_id``.
"""

from __future__ import annotations

from typing import ClassVar

from scope_cpp.eval.scorers.latex import boxed, same
from scope_cpp.eval.task import Item, Option, Output, Score, Source, Task
from scope_cpp.eval.tasks.data import Row, read_items, text
from scope_cpp.eval.tasks.options import read_options

_PROMPT = (
    "Problem: {problem}\n\n"
    "Reason step by step and write the final answer in \\boxed{{}}.\n\nSolution:"
)


class MATH500(Task):
    """One problem a prompt."""

    name: ClassVar[str] = "math500"
    summary: ClassVar[str] = "competition problems; the answer in \\boxed{} counts"
    where: ClassVar[str] = (
        "Get test.jsonl of MATH-500 from https://github.com/openai/prm800k"
        " (prm800k/math_splits, MIT licence)"
    )
    options: ClassVar[dict[str, Option]] = {
        "length": Option(2048, "longest output, in tokens", low=1),
    }

    def items(self, source: Source) -> list[Item]:
        """Read the problems."""
        length = read_options(self, source)["length"]

        def make(name: str, row: Row) -> Item:
            return Item(
                id=str(row.get("unique_id", name)),
                prompt=_PROMPT.format(problem=text(row, "problem").strip()),
                n_predict=length,
                gold=text(row, "answer"),
                group=str(row.get("subject", "")),
                stop=("\n\nProblem:",),
            )

        return read_items(self, source, make)

    def score(self, item: Item, output: Output, scorer: str) -> Score:
        """Compare what is in the last box."""
        found = boxed(output.text)
        right = float(found is not None and same(found, item.gold))
        return Score((right,), right, () if found is not None else ("no \\boxed{} in the output",))
