"""LongGenBench by the number of the question that the output states.

An answer is what follows "answer is" in the part of the output that is headed ``Answer_9:`` (or
``Answer 9:`` at the start of a line). Numbers are compared exactly whatever their form
(`numbers`), options as letters, in brackets or alone. The first answer to a question counts. A
question without an answer is wrong; so it is where the output has another numbering.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from fractions import Fraction
from itertools import zip_longest

from scope_cpp.eval.scorers.gold import CHOICES, Gold
from scope_cpp.eval.scorers.numbers import first_number
from scope_cpp.eval.task import Score

_HEADING = re.compile(
    r"(?:^[\W_]*answer[ _]?|\banswer_)([0-9]{1,9})\**\s?(?:[:.)]|$)", re.IGNORECASE | re.MULTILINE
)
# the end is only looked at: a sentence may hold a second "answer is"
_STATEMENT = re.compile(r"\banswer\s+is\b\s*:?\s*(?=(.*?)(?:[.!?](?:\s|$)|$))", re.I | re.M)
_FRAME = re.compile(r"\\(?:boxed|text(?:bf)?|mathrm|mathbf)(?=\{)")
_BRACKETED = re.compile(rf"[(\[{{]\s*([{CHOICES}{CHOICES.lower()}])\s*[)\]}}]")
_ALONE = re.compile(rf"[^\w(]*(?:[Oo]ption|[Cc]hoice)?[^\w(]*([{CHOICES}])(?![\w'\u2019]|\s+\w)")


def stated_choice(statement: str) -> str | None:
    """Return the option that a statement names, as a capital letter."""
    statement = _FRAME.sub("", statement)
    match = _BRACKETED.search(statement) or _ALONE.match(statement)
    return match[1].upper() if match else None


def stated_number(statement: str) -> Fraction | None:
    """Return the number that a statement names: of an equation, its right side."""
    return first_number(statement.rpartition("=")[2])


def statements(section: str) -> Iterator[str]:
    """Yield what follows "answer is", up to the end of the sentence."""
    return (match[1] for match in _STATEMENT.finditer(section))


def sections(text: str) -> Iterator[tuple[int, str]]:
    """Yield the number that each heading states, and what stands below it."""
    headings = list(_HEADING.finditer(text))
    for heading, following in zip_longest(headings, headings[1:]):
        yield int(heading[1]), text[heading.end() : following.start() if following else None]


def by_number(text: str, gold: Gold) -> Score:
    """Score an output by the numbers of the questions that its answers state."""
    read = stated_choice if gold.kind == "choices" else stated_number
    found: dict[int, str | Fraction] = {}
    twice: set[int] = set()
    for number, section in sections(text):
        for value in map(read, statements(section)):
            if value is not None and found.setdefault(number, value) != value:
                twice.add(number)
    asked = range(gold.first, gold.first + len(gold.answers))
    expected = [read(answer) if gold.kind == "numbers" else answer for answer in gold.answers]
    right = tuple(float(found.get(n) == e) for n, e in zip(asked, expected, strict=True))
    return Score(right, sum(right) / len(right), tuple(_problems(asked, found, twice)))


def _problems(asked: range, found: dict[int, str | Fraction], twice: set[int]) -> Iterator[str]:
    missing = [n for n in asked if n not in found]
    beyond = sorted(set(found) - set(asked))
    if not found:
        yield "no answer found in the output"
    elif missing:
        yield f"no answer to {len(missing)} of {len(asked)} questions: {_some(missing)}"
    if beyond:
        asked_text = f"questions are {asked[0]} to {asked[-1]}"
        yield f"answers to questions that were not asked ({asked_text}): {_some(beyond)}"
    if twice:
        yield f"several answers to one question, the first counts: {_some(sorted(twice))}"


def _some(numbers: list[int], most: int = 8) -> str:
    """List numbers, not too many."""
    more = len(numbers) - most
    return ", ".join(map(str, numbers[:most])) + (f" and {more} more" if more > 0 else "")
