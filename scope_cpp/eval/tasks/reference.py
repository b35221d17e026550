"""The reference task: facts and many questions, answers that refer to earlier answers.

Items are made by `scope_cpp.reference.task` (or read from ``--data``, JSON lines that
`write_samples` wrote). The answer to question i is the digit after ". A<i>=" in the output; the
first statement counts.
"""

from __future__ import annotations

from typing import Any, ClassVar

from scope_cpp.errors import UsageError
from scope_cpp.eval.task import Item, Option, Output, Score, Source, Task
from scope_cpp.eval.tasks.data import BadRow, Row, listed, read_items, text
from scope_cpp.eval.tasks.options import read_options
from scope_cpp.reference.task import MIXES, Size, make_samples, stated_answers
from scope_cpp.reference.vocabulary import tokenize

_SIZE = Size()


class Reference(Task):
    """Groups are the mixes."""

    name: ClassVar[str] = "reference"
    summary: ClassVar[str] = "the reference model's own task: long chains of worked answers"
    options: ClassVar[dict[str, Option]] = {
        "mixes": Option(MIXES, "which kinds of samples", choices=MIXES),
        "n": Option(12, "samples of each mix", low=1, high=10_000),
        "questions": Option(_SIZE.questions, "questions a sample, 18 tokens of output each", low=1),
        "facts": Option(_SIZE.facts, "facts in the prompt, at least as many", low=1),
        "filler": Option(_SIZE.filler, "filler words between the facts"),
    }

    def items(self, source: Source) -> list[Item]:
        """Make samples of every mix, in turn; or read them."""
        values = read_options(self, source)
        # the output is as long as its gold, and a token to end it
        count = source.tokenize or tokenize

        def item(name: str, row: Row) -> Item:
            answers = listed(row, "answers", int)
            refers = row.get("refers", row.get("refers_to_earlier", [0] * len(answers)))
            if len(listed({"refers": refers}, "refers", int)) != len(answers):
                raise BadRow("'refers' must be as long as 'answers'")
            return Item(
                id=str(row.get("id", name)),
                prompt=text(row, "prompt"),
                n_predict=len(count(text(row, "expected"))) + 1,
                gold={"answers": answers, "refers": refers},
                group=text(row, "mix"),
            )

        if source.data is not None:
            if source.options:
                raise UsageError(
                    "the samples are those of --data: leave out --task-option, or --data"
                )
            return read_items(self, source, item)
        return [item("", row) for row in self._made(values, source)]

    def _made(self, values: dict[str, Any], source: Source) -> list[Row]:
        sizes = (values["questions"], values["facts"], values["filler"])
        try:
            mixes = [make_samples(mix, values["n"], source.seed, *sizes) for mix in values["mixes"]]
        except ValueError as error:
            raise UsageError(f"the task {self.name}: {error}") from None
        samples = [sample for turn in zip(*mixes, strict=True) for sample in turn]
        return [
            {**vars(sample), "answers": list(sample.answers), "refers": list(sample.refers)}
            for sample in samples[: source.limit]
        ]

    def score(self, item: Item, output: Output, scorer: str) -> Score:
        """Compare the digit that is stated for each question."""
        answers = item.gold["answers"]
        stated = stated_answers(output.text)
        right = tuple(float(stated.get(i) == a) for i, a in enumerate(answers, start=1))
        problems = []
        if not stated:
            problems.append("no answer found in the output")
        elif missing := len(answers) - sum(1 <= i <= len(answers) for i in stated):
            problems.append(f"no answer to {missing} of {len(answers)} questions")
        if beyond := [i for i in stated if not 1 <= i <= len(answers)]:
            problems.append(f"answers to {len(beyond)} questions that were not asked")
        return Score(right, sum(right) / len(right), tuple(problems))

    def kinds(self, item: Item) -> tuple[str, ...]:
        """Tell questions that ask for facts only from those that refer to an earlier answer."""
        return tuple("referring" if earlier else "direct" for earlier in item.gold["refers"])
