"""What LongGenBench's scorers are given: the answers and the number of the first question."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from scope_cpp.eval.scorers.numbers import first_number

CHOICES = "ABCDE"
_QUESTION = re.compile(r"^Question_([0-9]+):", re.MULTILINE)


@dataclass(frozen=True)
class Gold:
    """Answers to the questions of one prompt.

    Attributes
    ----------
    answers : tuple of str
        A letter each, or the end of GSM8K's solution, from ``####`` on.
    first : int
        The number of the first question that is asked; the examples before it have numbers too.
    """

    answers: tuple[str, ...]
    first: int

    @classmethod
    def of(cls, prompt: str, answers: Sequence[str]) -> Gold:
        """Read the answers of a row of LongGenBench as the SCOPE authors built it.

        Raises
        ------
        ValueError
            The answers are neither letters nor solutions, or the prompt does not ask for as many.
        """
        n = len(answers)
        asked = [int(number) for number in _QUESTION.findall(prompt)][-n:]
        if not asked or asked != list(range(asked[0], asked[0] + n)):
            raise ValueError(
                f"{n} answers, but the prompt does not end with as many questions"
                " (Question_6:, Question_7:, ...)"
            )
        if all(len(answer) == 1 and answer in CHOICES for answer in answers):
            return cls(tuple(answers), asked[0])
        ends = tuple(answer[answer.find("####") :] for answer in answers if "####" in answer)
        if len(ends) < n or any(first_number(end) is None for end in ends):
            raise ValueError(f"an answer is neither {'/'.join(CHOICES)} nor ends with #### NUMBER")
        return cls(ends, asked[0])

    def first_of(self, n: int, prompt: str) -> tuple[Gold, str]:
        """Return the first n answers, and the prompt without the questions after them."""
        end = next(
            found.start() for found in _QUESTION.finditer(prompt) if int(found[1]) == self.first + n
        )
        return replace(self, answers=self.answers[:n]), prompt[:end]

    @property
    def kind(self) -> str:
        """``choices`` or ``numbers``."""
        return "numbers" if self.answers[0].startswith("####") else "choices"

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {"answers": list(self.answers), "first": self.first}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Gold:
        """Return what `to_json` was called on."""
        return cls(tuple(values["answers"]), values["first"])
