"""LongGenBench as the SCOPE authors built it: many questions in one prompt, one long output.

Files of https://github.com/Linking-ai/SCOPE (MIT licence), one JSON object a line with ``prompt``
(worked examples, then the questions, numbered), ``questions`` and ``answers``. How many questions
a prompt has is read from it, so that the 4K sets (30 or 40) and the 8K sets (60 or 80, written
with ++) are the same task. Prompts are framed as in the authors' runs, see `FORMATS`.

The authors' MMLU prompts break off before the subject ("... (with answers) about "), and their
runs left out the prompts 22, 31, 32 and 49 of the file (57 in all) for memory; these are here.
Outputs may have 4096 tokens, for 8K sets 7950, as the authors' had; their script gave 7950 to
CSQA+ too (it looks for 30 questions). Of a prompt that is cut (`questions`) an output may have the
same share.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from scope_cpp.eval.scorers.authors import by_appearance
from scope_cpp.eval.scorers.gold import Gold
from scope_cpp.eval.scorers.strict import by_number
from scope_cpp.eval.task import Item, Option, Output, Score, Source, Task
from scope_cpp.eval.tasks.data import BadRow, Row, listed, read_items, text
from scope_cpp.eval.tasks.options import read_options

# the authors' instruction, word for word: the figures are of models that were given it
INSTRUCTION = (
    "Answer each question step by step, adhering to the format shown in the examples provided."
    " Start each response with 'Answer_' and introduce the final response with 'The answer is'."
    " Do not repeat the question. Ensure that you respond to all the questions presented,"
    " regardless of their number."
)
FORMATS = {
    "llama-3": "<<SYS>>\n {system} \n<</SYS>>\n\n{prompt}",
    "llama-2": "[INST] <<SYS>>\n {system} \n<</SYS>>\n\n{prompt} [/INST]",
    "plain": "{system}\n\n{prompt}",
}
_SCORERS = {"strict": by_number, "authors": by_appearance}
_MOST_QUESTIONS_4K = 40
_LENGTH_4K, _LENGTH_8K = 4096, 7950


def read_gold(row: Row) -> Gold:
    """Return the answers of a row.

    Raises
    ------
    BadRow
        The row is not of this form.
    """
    try:
        return Gold.of(text(row, "prompt"), listed(row, "answers", str))
    except BadRow:
        raise
    except ValueError as error:
        raise BadRow(str(error)) from None


class LongGenBench(Task):
    """What the three sets share."""

    scorers: ClassVar[tuple[str, ...]] = ("strict", "authors")
    options: ClassVar[dict[str, Option]] = {
        "format": Option("llama-3", "how the authors frame prompts", choices=tuple(FORMATS)),
        "questions": Option(0, "ask only this many of a prompt's first questions; 0 for all"),
    }
    kind: ClassVar[str] = "choices"
    system: ClassVar[str] = INSTRUCTION

    def items(self, source: Source) -> list[Item]:
        """Read the authors' file."""
        values = read_options(self, source)
        frame, most = FORMATS[values["format"]], values["questions"]

        def make(name: str, row: Row) -> Item:
            gold, prompt = self.gold(row), row["prompt"]
            n_questions = len(gold.answers)
            length = _LENGTH_4K if n_questions <= _MOST_QUESTIONS_4K else _LENGTH_8K
            if 0 < most < n_questions:
                gold, prompt = gold.first_of(most, prompt)
                length = -(-length * most // n_questions)
            user = {"role": "user", "content": prompt}
            return Item(
                id=name,
                prompt=frame.format(system=self.system, prompt=prompt),
                n_predict=length,
                gold=gold.to_json(),
                group=str(row.get("task", "")),
                messages=({"role": "system", "content": self.system}, user),
            )

        return read_items(self, source, make)

    def gold(self, row: Row) -> Gold:
        """Return the answers of a row, of this set's kind."""
        gold = read_gold(row)
        if gold.kind != self.kind:
            other = NAMES[gold.kind]
            raise BadRow(f"answers are {gold.kind}: this is a file of the task {other}")
        return gold

    def score(self, item: Item, output: Output, scorer: str) -> Score:
        """Score an output; `correct` is by question."""
        return _SCORERS[scorer](output.text, Gold.from_json(item.gold))

    def total(self, scores: Sequence[Score]) -> float:
        """Return the mean over outputs, as the authors do; the same where K is."""
        return sum(score.value for score in scores) / len(scores) if scores else 0.0


def _where(name: str, files: str) -> str:
    return (
        f"Get {files} from https://github.com/Linking-ai/SCOPE (data/LongGenBench/{name},"
        " MIT licence)"
    )


class LongGenBenchGSM8K(LongGenBench):
    """GSM8K+ and GSM8K++."""

    name: ClassVar[str] = "longgenbench-gsm8k"
    summary: ClassVar[str] = "30 or 60 grade-school problems in one prompt (GSM8K+, GSM8K++)"
    where: ClassVar[str] = _where("gsm8k", "gsm8k_30.jsonl (4K) or gsm8k_60.jsonl (8K)")
    kind: ClassVar[str] = "numbers"


class LongGenBenchMMLU(LongGenBench):
    """MMLU+ and MMLU++."""

    name: ClassVar[str] = "longgenbench-mmlu"
    summary: ClassVar[str] = "30 or 60 multiple-choice questions of a subject (MMLU+, MMLU++)"
    where: ClassVar[str] = _where("mmlu", "mmlu_30.jsonl (4K) or mmlu_60.jsonl (8K)")
    system: ClassVar[str] = (
        f"{INSTRUCTION} The following are multiple choice questions (with answers) about "
    )


class LongGenBenchCSQA(LongGenBench):
    """CSQA+ and CSQA++."""

    name: ClassVar[str] = "longgenbench-csqa"
    summary: ClassVar[str] = "40 or 80 commonsense questions in one prompt (CSQA+, CSQA++)"
    where: ClassVar[str] = _where("csqa", "csqa_40.jsonl (4K) or csqa_80.jsonl (8K)")


NAMES = {
    "numbers": LongGenBenchGSM8K.name,
    "choices": f"{LongGenBenchCSQA.name} or {LongGenBenchMMLU.name}",
}


def recognise(row: Row) -> LongGenBench:
    """Return the task that a row of the authors' outputs is of, by its answers and its prompt.

    Raises
    ------
    BadRow
        The row is of none.
    """
    if read_gold(row).kind == "numbers":
        return LongGenBenchGSM8K()
    return LongGenBenchMMLU() if LongGenBenchMMLU.system in row["prompt"] else LongGenBenchCSQA()
