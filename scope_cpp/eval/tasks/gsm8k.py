"""GSM8K: grade-school problems, one a prompt (Cobbe et al., arXiv 2110.14168).

The file is the test split: ``question`` and ``answer``, a solution that ends with ``#### NUMBER``.
Its first rows are the worked examples of every prompt (``shots``, 8 as is common) and are not
asked. The answer of an output is the number after ``####``, else the last number in it; with
``shots=0`` the output has no form to follow, and the last number decides.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import ClassVar

from scope_cpp.errors import ScopeError
from scope_cpp.eval.scorers.numbers import first_number, last_number
from scope_cpp.eval.task import Item, Option, Output, Score, Source, Task
from scope_cpp.eval.tasks.data import BadRow, Row, read_items, text
from scope_cpp.eval.tasks.options import read_options

_CALCULATION = re.compile(r"<<[^<>\n]*>>")
_END = "####"
_NEXT = "\n\nQuestion:"


def _asked(question: str) -> str:
    return f"Question: {question.strip()}\nAnswer:"


class GSM8K(Task):
    """One problem a prompt."""

    name: ClassVar[str] = "gsm8k"
    summary: ClassVar[str] = "grade-school problems, one a prompt; the final number counts"
    where: ClassVar[str] = (
        "Get test.jsonl from https://github.com/openai/grade-school-math"
        " (grade_school_math/data, MIT licence)"
    )
    options: ClassVar[dict[str, Option]] = {
        "shots": Option(8, "worked examples, the file's first rows, which are not asked", high=64),
        "length": Option(512, "longest output, in tokens", low=1),
    }

    def items(self, source: Source) -> list[Item]:
        """Read the test split."""
        values = read_options(self, source)
        shots: int = values["shots"]

        def make(name: str, row: Row) -> Item:
            question, answer = text(row, "question"), text(row, "answer")
            end = answer.rpartition(_END)[2]
            if _END not in answer or first_number(end) is None:
                raise BadRow(f"'answer' must end with {_END} and a number")
            worked = f"{_asked(question)} {_CALCULATION.sub('', answer).strip()}"
            return Item(name, _asked(question), values["length"], end.strip(), forced=worked)

        limit = None if source.limit is None else source.limit + shots
        rows = read_items(self, replace(source, limit=limit), make)
        if len(rows) <= shots:
            raise ScopeError(
                f"{source.data}: {len(rows)} problems, of which {shots} are the examples:"
                " use --task-option shots=0, or the whole file"
            )
        examples = "".join(f"{row.forced}\n\n" for row in rows[:shots])
        return [
            replace(row, prompt=examples + row.prompt, stop=(_NEXT,), forced="")
            for row in rows[shots:]
        ]

    def score(self, item: Item, output: Output, scorer: str) -> Score:
        """Compare the final number."""
        _, marked, end = output.text.partition(_END)
        found = first_number(end) if marked else last_number(output.text)
        right = float(found is not None and found == first_number(item.gold))
        return Score((right,), right, () if found is not None else ("no number in the output",))
