r"""The reference task: a table of facts, many questions, and a long chain of worked answers.

It has the shape of LongGenBench's GSM8K+ (arXiv 2410.04199), small enough that a model of under
a million parameters solves it. The prompt lists facts (two-letter keys with one-digit values,
filler words between) and questions, each with two operands: a key, and a key or an *earlier
answer*. The output restates each question, looks both operands up, adds them modulo 10 and states
the answer, 18 tokens a question::

    Facts: xy=0 er. vd=8\nQuestions: Q1 xy vd Q2 vd A1\nAnswers:\n
     Q1 xy vd: xy=0, vd=8;0+8=8. A1=8\n Q2 vd A1: vd=8, A1=8;8+8=6. A2=6\n

An answer that is wrong early spoils those that refer to it, so the important parts of the cache
lie in the prompt (facts and questions) *and* in the output (earlier answers). Two mixes:

``uniform``
    A quarter of the questions refer back, to any earlier answer.
``hubs``
    Half of them do, nearly all to four of the early answers, drawn at random: few generated
    tokens matter much, and not because they are the first.

A sample depends on (mix, seed, number, sizes) only. Samples made here are *held out*: training
draws from streams whose names start with another word (`stream`), so that no seed of one can be
a seed of the other.
"""

from __future__ import annotations

import json
import re
from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import NamedTuple

from scope_cpp.reference.vocabulary import FILLERS, KEYS, MAX_LABEL

MIXES = ("uniform", "hubs")
REFER_BACK = {"uniform": 0.25, "hubs": 0.5}
N_HUBS, EARLY, TO_HUBS = 4, 1 / 8, 0.9  # hubs are among the first eighth of the answers
HELD_OUT = "held-out"

_QUESTION = re.compile(r" Q\d+ \w+ (A?)(\w+)")
_STATED = re.compile(r"\. ?A(\d+)=(\d)(?!\d)")


class Size(NamedTuple):
    """How much a sample holds: questions (18 tokens of output each), facts, filler words."""

    questions: int = 228
    facts: int = 240
    filler: int = 60


@dataclass(frozen=True)
class ReferenceSample:
    """A prompt, and the output that a model without an error gives.

    Parameters
    ----------
    id
        Mix, seed and number; unique among samples of one size.
    mix
        One of `MIXES`.
    prompt, expected
        Texts; the prompt ends with its last line break.
    answers
        One digit for each question.
    refers
        The number (from 1) of the earlier answer that a question refers to, 0 if it has none.
    """

    id: str
    mix: str
    prompt: str
    expected: str
    answers: tuple[int, ...]
    refers: tuple[int, ...]


class Question(NamedTuple):
    """A line of the output: what is asked, what is looked up, and the answer."""

    label: int
    first: str
    second: str
    refers: int
    values: tuple[int, int]

    @property
    def answer(self) -> int:
        """The sum of both values modulo 10."""
        return sum(self.values) % 10

    def asked(self) -> list[str]:
        """Pieces in the prompt."""
        return [f" Q{self.label}", self.first, self.second]

    def worked(self) -> list[str]:
        """Pieces in the output, 18."""
        a, b = self.values
        looked_up = [self.first, f"={a}", ",", self.second, f"={b}", ";"]
        added = [str(a), "+", str(b), f"={self.answer}", "."]
        return [*self.asked(), ":", *looked_up, *added, f" A{self.label}", f"={self.answer}", "\n"]


def stream(split: str, *names: object) -> Random:
    """The random stream of these names; `split` comes first, so that splits never share one."""
    if "/" in split:
        raise ValueError(f"a split's name has no slash: {split!r}")
    return Random("/".join(["scope-cpp reference task", split, *map(str, names)]))


def draw_facts(rng: Random, n: int) -> dict[str, int]:
    """`n` distinct keys (pieces) with a digit each."""
    return {key: rng.randrange(10) for key in rng.sample(KEYS, n)}


def draw_questions(
    rng: Random, mix: str, facts: dict[str, int], n: int, first_label: int = 1
) -> list[Question]:
    """Questions about `facts`, numbered from `first_label`; first operands are distinct.

    (The model finds the second operand by the first one: a second use would be ambiguous.)
    """
    keys = list(facts)
    n_early = max(N_HUBS, int(EARLY * n))
    hubs = sorted(rng.sample(range(n_early), N_HUBS)) if mix == "hubs" else []
    questions: list[Question] = []
    for i, first in enumerate(rng.sample(keys, n)):
        if i and rng.random() < REFER_BACK[mix]:
            known = bisect_right(hubs, i - 1)
            to_hub = known and rng.random() < TO_HUBS
            earlier = questions[hubs[rng.randrange(known)] if to_hub else rng.randrange(i)]
            refers, second, value = earlier.label, f" A{earlier.label}", earlier.answer
        else:
            refers, second = 0, rng.choice(keys)
            value = facts[second]
        values = (facts[first], value)
        questions.append(Question(first_label + i, first, second, refers, values))
    return questions


def prompt_pieces(
    rng: Random, facts: dict[str, int], n_filler: int, questions: Iterable[Question]
) -> list[str]:
    """Pieces of a prompt: facts in order with filler words between, the questions, a heading.

    A part that is empty has no heading (later turns of a chat may lack one).
    """
    words: list[tuple[str, ...]] = [(key, f"={value}") for key, value in facts.items()]
    for _ in range(n_filler):
        words.insert(rng.randrange(len(words) + 1), (rng.choice(FILLERS),))
    listed = [piece for word in words for piece in word]
    asked = [piece for question in questions for piece in question.asked()]
    pieces = ["Facts:", *listed, "\n"] if listed else []
    pieces += ["Questions:", *asked, "\n"] if asked else []
    return [*pieces, "Answers:", "\n"]


def make_samples(
    mix: str,
    n: int,
    seed: int,
    n_questions: int = Size().questions,
    n_facts: int = Size().facts,
    n_filler: int = Size().filler,
) -> list[ReferenceSample]:
    """Make `n` held-out samples; the first ones do not depend on `n`.

    Raises
    ------
    ValueError
        If the mix is unknown, or the sizes do not fit: each question needs a fact of its own
        for its first operand, and there are labels up to 256 and 676 keys.
    """
    if mix not in MIXES:
        raise ValueError(f"unknown mix {mix!r}: use one of {', '.join(MIXES)}")
    if not 1 <= n_questions <= min(n_facts, MAX_LABEL):
        raise ValueError(
            f"{n_questions} questions about {n_facts} facts: "
            f"use 1 to {MAX_LABEL} questions and at least as many facts"
        )
    if n_facts > len(KEYS) or n_filler < 0:
        raise ValueError(f"use at most {len(KEYS)} facts, and filler of 0 or more words")
    size = Size(n_questions, n_facts, n_filler)
    return [_sample(mix, seed, number, size) for number in range(n)]


def _sample(mix: str, seed: int, number: int, size: Size) -> ReferenceSample:
    rng = stream(HELD_OUT, mix, seed, number, *size)
    facts = draw_facts(rng, size.facts)
    questions = draw_questions(rng, mix, facts, size.questions)
    return ReferenceSample(
        id=f"{mix}-{seed}-{number}",
        mix=mix,
        prompt="".join(prompt_pieces(rng, facts, size.filler, questions)),
        expected="".join(piece for question in questions for piece in question.worked()),
        answers=tuple(question.answer for question in questions),
        refers=tuple(question.refers for question in questions),
    )


def stated_answers(text: str) -> dict[int, int]:
    """Label and digit of each ``. A<label>=<digit>`` in an output; the first statement counts."""
    stated: dict[int, int] = {}
    for label, digit in _STATED.findall(text):
        stated.setdefault(int(label), int(digit))
    return stated


def write_samples(path: Path | str, samples: Iterable[ReferenceSample]) -> None:
    """Write samples as JSON lines."""
    lines = (json.dumps(sample.__dict__) + "\n" for sample in samples)
    Path(path).write_text("".join(lines), encoding="utf-8")


def read_samples(path: Path | str) -> list[ReferenceSample]:
    """Read JSON lines with ``prompt``, ``answers``, ``mix`` and ``expected`` (others ignored).

    What a question refers to is read from the prompt.

    Raises
    ------
    ValueError
        If a line is no such object; the message names the line.
    """
    samples = []
    for number, line in enumerate(Path(path).read_text(encoding="utf-8-sig").splitlines(), start=1):
        try:
            samples.append(_parse(json.loads(line), number))
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path}, line {number}: {error!r}") from error
    return samples


def _parse(row: dict[str, object], number: int) -> ReferenceSample:
    prompt, answers = str(row["prompt"]), row["answers"]
    if not isinstance(answers, list) or not answers:
        raise ValueError("answers must be a list with at least one digit")
    asked = _QUESTION.findall(prompt.partition("Questions:")[2])
    if len(asked) != len(answers):
        raise ValueError(f"{len(asked)} questions, but {len(answers)} answers")
    return ReferenceSample(
        id=str(row.get("id", number)),
        mix=str(row["mix"]),
        prompt=prompt,
        expected=str(row["expected"]),
        answers=tuple(int(answer) for answer in answers),
        refers=tuple(int(operand) if earlier else 0 for earlier, operand in asked),
    )
