"""LongGenBench as the SCOPE authors score it: answers count by order of appearance.

Follows ``eval_longgenbench.py`` of https://github.com/Linking-ai/SCOPE and gives its figures to
the last digit on the authors' outputs. What it does, and what one would not expect:

- The n-th answer that is found belongs to the n-th question, whatever number the output states.
- A number is digits right after "answer is ". An answer such as "$18" is not found; the search
  goes on to the digits of a later answer, and all answers after it belong to one question earlier.
- "####  70,000" is expected as 70, "-5" as nothing; "18.5" in an output is 18.
- An option is all that stands between the brackets after "answer is ", on one line.
- An output's score is the share of right answers, a set's the mean over outputs.

`scope_cpp.eval.scorers.strict` does without these.
"""

from __future__ import annotations

import re

from scope_cpp.eval.scorers.gold import Gold
from scope_cpp.eval.task import Score

_NUMBER = re.compile(r"Answer_\d+:.*?answer is (\d+)", re.DOTALL)
_CHOICE = re.compile(r"Answer_\d+:\s*.*?answer is \((.*?)\)")
_EXPECTED = re.compile(r"####\s*(\d+)")


def by_appearance(text: str, gold: Gold) -> Score:
    """Score an output by the order in which answers appear in it."""
    expected: list[str | None]
    if gold.kind == "choices":
        found, expected = _CHOICE.findall(text), list(gold.answers)
    else:
        matches = [_EXPECTED.search(answer) for answer in gold.answers]
        found, expected = _NUMBER.findall(text), [m and m[1] for m in matches]
    right = [float(a == b) for a, b in zip(found, expected, strict=False)]
    right += [0.0] * (len(expected) - len(right))
    problems = []
    if not found:
        problems.append("no answer found in the output")
    elif len(found) != len(expected):
        problems.append(f"{len(found)} answers found to {len(expected)} questions")
    return Score(tuple(right), sum(right) / len(right), tuple(problems))
