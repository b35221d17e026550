"""LongProc's countdown (Ye et al., arXiv 2501.05414): its search, written out, and two scores.

Four numbers are combined by + - * / to a target. The model writes a depth-first search and then
three equations between ``<Solution>`` tags. The texts and both scores are those of
https://github.com/princeton-pli/LongProc; the search is needed for the examples in the prompt and
as the gold procedure.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

LIMIT = 2000
_SEARCH = "# Search Procedure"
_FOUND = "Now we have found the target"
_EQUATION = re.compile(r"\s*([0-9]{1,9})\s*([-+*/])\s*([0-9]{1,9})\s*=\s*([0-9]{1,9})\s*")
_OPERATIONS: dict[str, Callable[[float, float], float]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": operator.truediv,
}
Numbers = list[int]


@dataclass
class Search:
    """A depth-first search, written out as LongProc does.

    Attributes
    ----------
    lines : list of str
        What was written so far.
    solution : list of str
        The equations that reach the target, once found.
    """

    target: int
    lines: list[str] = field(default_factory=list)
    solution: list[str] = field(default_factory=list)

    def run(self, numbers: Numbers) -> bool:
        """Search from the first numbers; whether the target was reached."""
        self.lines.append(f"Initial number set: {numbers}, {self._options(numbers)}")
        return self._from(numbers, 1)

    def _options(self, numbers: Numbers) -> str:
        if len(numbers) == 2:
            return f"target: {self.target}, just two numbers left."
        pairs = [(a, b) for a, b, _ in _pairs(numbers)]
        return f"target: {self.target}. Options for choosing two numbers: {pairs}."

    def _from(self, numbers: Numbers, level: int) -> bool:
        for a, b, left in _pairs(numbers):
            depth = level
            if left:
                pick = (
                    f"Pick two numbers ({a}, {b}) (numbers left: {left}). Try possible operations."
                )
                self.lines.append(_indented(level, pick))
                depth += 1
            for sign in _OPERATIONS:
                if self._try(max(a, b), sign, min(a, b), left, depth):
                    return True
        return False

    def _try(self, a: int, sign: str, b: int, left: Numbers, level: int) -> bool:
        """Write one operation, and all that follows from it."""
        if sign == "/" and not b:
            self._write(level, f"{a} / {b} (invalid operation)", "drop this branch.")
            return False
        value = _OPERATIONS[sign](a, b)
        result, numbers = int(value), [int(value), *left]
        stated = f"{result}" if value == result else f"{value:.1f}"
        step = f"{a} {sign} {b} = {stated}"
        if value != result:
            what = f"{stated} is a decimal, drop this branch."
        elif result >= LIMIT:
            what = f"{result} exceeds the maximum intermediate result, drop this branch."
        elif left:
            options = self._options(numbers)
            what = f"Add {result} to the number set. Current number set: {numbers}, {options}"
        elif result != self.target:
            what = f"Evaluate {result} != {self.target}, drop this branch."
        else:
            what = f"Evaluate {result} == {self.target}, target found!"
        self._write(level, step, what)
        dropped = what.endswith("drop this branch.")
        if dropped or (left and not self._from(numbers, level + 1)):
            return False
        self.solution.insert(0, step)
        return True

    def _write(self, level: int, step: str, what: str) -> None:
        self.lines.append(_indented(level, f"Try {step}. {what}"))


def _pairs(numbers: Numbers) -> Iterator[tuple[int, int, Numbers]]:
    """Yield each two numbers, in order, and the others."""
    for i, a in enumerate(numbers):
        for j in range(i + 1, len(numbers)):
            yield a, numbers[j], [n for k, n in enumerate(numbers) if k not in (i, j)]


def _indented(level: int, text: str) -> str:
    return " " * level + "|- " + text


def demonstration(numbers: Numbers, target: int) -> str | None:
    """Return a whole answer: the search and its solution; None if the target is out of reach."""
    search = Search(target)
    if not search.run(list(numbers)):
        return None
    first, second, third = search.solution
    return "\n".join(
        [
            _SEARCH,
            *search.lines,
            "",
            f"{_FOUND}, let's trace back the solution:",
            f"Final step: {third}",
            f"The step before: {second}",
            f"The first step: {first}",
            "",
            "Output the solution in the required format:",
            "<Solution>",
            *search.solution,
            "</Solution>",
            "",
        ]
    )


def solves(output: str, numbers: Numbers, target: int) -> bool | None:
    """Whether the equations between the tags reach the target; None without them."""
    start, end = output.find("<Solution>"), output.find("</Solution>")
    if start < 0 or end < 0:
        return None
    lines = output[start + len("<Solution>") : end].strip().split("\n")
    if len(lines) != len(numbers) - 1:
        return False
    left = list(numbers)
    for line in lines:
        match = _EQUATION.fullmatch(line)
        if not match:
            return False
        a, b, result = (int(match[i]) for i in (1, 3, 4))
        for number in (a, b):
            if number not in left:
                return False
            left.remove(number)
        if (match[2] == "/" and not b) or _OPERATIONS[match[2]](a, b) != result:
            return False
        left.append(result)
    return left == [target]


def share_of_search(output: str, gold: str) -> float:
    """Return the share of the search up to the first wrong step, as LongProc counts it.

    A step is right if it picks the same numbers, or tries the same operation and drops the branch
    where the search does; the result it states is not looked at. Without a wrong step the last
    line that is there does not count, so that only a right solution is worth 1.
    """
    if _SEARCH not in output:
        return 0.0
    wanted = gold.split(_SEARCH)[-1].split(_FOUND)[0].strip().split("\n")
    written = output.split(_SEARCH)[-1].strip().split("\n")
    if written[0] != wanted[0]:
        return 0.0
    steps = list(zip(written[1:], wanted[1:], strict=False))
    wrong = (i for i, (a, b) in enumerate(steps) if not _same_step(a, b))
    return max(0, next(wrong, len(steps) - 1)) / max(1, len(wanted) - 1)


def _same_step(written: str, wanted: str) -> bool:
    if written == wanted or "Pick two numbers" in wanted:
        return written == wanted
    dropped = ["drop this branch" in line for line in (written, wanted)]
    return written.split("=")[0] == wanted.split("=")[0] and dropped[0] == dropped[1]
