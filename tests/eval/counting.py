"""A small task, and runs of it on a random model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from scope_cpp.engine.model import Model
from scope_cpp.engine.settings import Settings
from scope_cpp.eval.asked import Asked
from scope_cpp.eval.grid import Grid
from scope_cpp.eval.result import Result
from scope_cpp.eval.run import Evaluation
from scope_cpp.eval.sample import Stop
from scope_cpp.eval.task import Item, Output, Score, Source, Task

PROMPTS = ("Once upon a time", "The quick brown fox jumps", "Facts: ab=1 cd=2", "In the end")
N_PREDICT = 40


class Counting(Task):
    """How often four letters are in the output: any text has a score."""

    name = "counting"
    summary = "letters in the output"
    scorers = ("strict", "lenient")

    def items(self, source: Source) -> list[Item]:
        return [
            Item(str(i), text, N_PREDICT, "aeio", group=("even", "odd")[i % 2])
            for i, text in enumerate(PROMPTS[: source.limit])
        ]

    def kinds(self, item: Item) -> tuple[str, ...]:
        return ("first", "first", "other", "other")

    def score(self, item: Item, output: Output, scorer: str) -> Score:
        text = output.text.lower() if scorer == "lenient" else output.text
        found = tuple(float(text.count(letter) % 2) for letter in item.gold)
        return Score(found, sum(found) / len(found), () if text else ("there is no output",))


class Longest(Counting):
    """The same, with a total of its own."""

    def total(self, scores: Sequence[Score]) -> float:
        return max(score.value for score in scores)


def evaluation(model: Model, folder: Path, **changes: Any) -> Evaluation:
    """An evaluation of the task that `find` is patched to return."""
    asked = Asked("counting", **changes.pop("asked", {}))
    grid = Grid(
        names=changes.pop("names", ("full", "scope-slide", "h2o")),
        betas=changes.pop("betas", (16,)),
        base=Settings(n_threads=1),
    )
    return Evaluation(asked, grid, model, out=folder, **changes)


def run(model: Model, folder: Path, **changes: Any) -> Result:
    return evaluation(model, folder, **changes).run(Stop())
