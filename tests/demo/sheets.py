"""Short sheets, and the right answers worked out from their text alone."""

from __future__ import annotations

import re
from dataclasses import replace

from scope_cpp.reference.task import ReferenceSample

FACTS = {"a": 3, "b": 4, "c": 9, "d": 5}
OPERANDS = [("a", "b"), ("b", "c"), ("c", "A1"), ("d", "A2"), ("b", "a")]


def by_hand(n: int = 5) -> ReferenceSample:
    """A sheet of at most five questions in single letters."""
    facts = "".join(f" {key}={value}" for key, value in FACTS.items())
    asked = "".join(f" Q{i} {a} {b}" for i, (a, b) in enumerate(OPERANDS[:n], start=1))
    known = dict(FACTS)
    lines = []
    for i, (a, b) in enumerate(OPERANDS[:n], start=1):
        x, y = known[a], known[b]
        known[f"A{i}"] = z = (x + y) % 10
        lines.append(f" Q{i} {a} {b}: {a}={x}, {b}={y};{x}+{y}={z}. A{i}={z}\n")
    return ReferenceSample(
        id=f"hand-{n}",
        mix="hubs",
        prompt=f"Facts:{facts}\nQuestions:{asked}\nAnswers:\n",
        expected="".join(lines),
        answers=tuple(known[f"A{i}"] for i in range(1, n + 1)),
        refers=tuple(int(b[1:]) if b[0] == "A" else 0 for _, b in OPERANDS[:n]),
    )


def shortened(sample: ReferenceSample, n: int) -> ReferenceSample:
    """The same sheet with its first `n` questions."""
    head, _, asked = sample.prompt.partition("Questions:")
    first = "".join(re.findall(r" Q\d+ \w+ \w+", asked)[:n])
    return replace(
        sample,
        prompt=f"{head}Questions:{first}\nAnswers:\n",
        expected="".join(sample.expected.splitlines(keepends=True)[:n]),
        answers=sample.answers[:n],
        refers=sample.refers[:n],
    )


def worked_out(prompt: str) -> list[int]:
    """Right answers to the questions of a prompt."""
    head, _, asked = prompt.partition("Questions:")
    known = {key: int(value) for key, value in re.findall(r"(\w+)=(\d)", head)}
    answers = []
    for i, first, second in re.findall(r" Q(\d+) (\w+) (\w+)", asked):
        known[f"A{i}"] = (known[first] + known[second]) % 10
        answers.append(known[f"A{i}"])
    return answers


def recounted(prompt: str, output: str) -> tuple[list[bool], float]:
    """Whether each answer that an output states is right, and the share that is."""
    right = []
    for i, answer in enumerate(worked_out(prompt), start=1):
        stated = re.search(rf"\. ?A{i}=(\d)", output)
        right.append(stated is not None and int(stated[1]) == answer)
    return right, sum(right) / len(right)
