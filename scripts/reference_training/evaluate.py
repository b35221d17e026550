"""Free-running accuracy of a model file through the engine, and the gates it must pass."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from reference_training.data import chat
from scope_cpp.engine.generate import generate
from scope_cpp.engine.model import Model
from scope_cpp.engine.settings import Settings
from scope_cpp.reference.task import (
    HELD_OUT,
    MIXES,
    ReferenceSample,
    Size,
    make_samples,
    stated_answers,
    stream,
)
from scope_cpp.reference.vocabulary import EOS_ID, detokenize

# Held-out seeds by purpose: what is published is never looked at for a choice.
GATE_SEED, PUBLISHED_SEED = 101, 201

SHARE = 9  # the bounded rows may hold a ninth of the output
MOST_WRONG, SHARE_WRONG = 2, 0.15  # a label is bad if it is wrong more often than both

Tick = Callable[[], None]


@dataclass(frozen=True)
class Row:
    """A configuration of the cache; `options` may use ``{half}``, half the output's cells."""

    name: str
    policy: str
    options: tuple[str, ...] = ()

    def settings(self, n_prompt: int, cells: int) -> Settings:
        """Settings with `cells` beside the prompt's."""
        options = tuple(option.format(half=cells // 2) for option in self.options)
        budget = None if self.policy == "full" else n_prompt + cells
        return Settings(
            policy=self.policy, options=options, budget=budget, flash_attn="off", n_threads=1
        )


FULL = Row("full", "full")
SCOPE = Row("SCOPE slide", "scope-slide", ("interval=16",))
RECENT = Row("prompt + recent", "scope-slide", ("interval=16", "beta1=0"))
H2O = Row("H2O", "h2o", ("recent={half}",))
ROWS = (FULL, SCOPE, RECENT, H2O)


@dataclass(frozen=True)
class Result:
    """What one row did on samples of one size and mix.

    Attributes
    ----------
    right
        Whether each answer was right: bool (samples, questions).
    refers
        Whether each question refers to an earlier answer, same shape.
    ended
        Whether each output ended by itself after the last answer.
    """

    right: np.ndarray
    refers: np.ndarray
    ended: np.ndarray

    @property
    def accuracy(self) -> float:
        """Share of right answers."""
        return float(self.right.mean())

    def split(self) -> tuple[float, float]:
        """Accuracy of direct and of referring questions; NaN where there are none."""
        parts = (self.right[~self.refers], self.right[self.refers])
        direct, referring = (float(part.mean()) if part.size else float("nan") for part in parts)
        return direct, referring

    def quarters(self) -> list[float]:
        """Accuracy by quarter of the output."""
        return [float(part.mean()) for part in np.array_split(self.right, 4, axis=1)]


@dataclass
class Counts:
    """Answers that are exact, of all."""

    right: int = 0
    all: int = 0


def run(model: Model, row: Row, samples: Sequence[ReferenceSample], tick: Tick) -> Result:
    """Generate greedily; `tick` is called after each sample."""
    right, ended = [], []
    for sample in samples:
        n_prompt = len(model.tokenize(sample.prompt))
        longest = len(model.tokenize(sample.expected, add_special=False)) + 1
        settings = row.settings(n_prompt, longest // SHARE)
        text, last = generate(model, sample.prompt, n_predict=longest, settings=settings)
        stated = stated_answers(text)
        right.append([stated.get(i) == a for i, a in enumerate(sample.answers, start=1)])
        ended.append(last.finish_reason == "stop" and len(stated) == len(sample.answers))
        tick()
    refers = np.array([sample.refers for sample in samples]) > 0
    return Result(np.array(right), refers, np.array(ended))


def evaluate(
    path: Path,
    rows: Iterable[Row],
    size: Size,
    n: int,
    seed: int,
    tick: Tick = lambda: None,
) -> dict[tuple[str, str], Result]:
    """Results by (row, mix) on `n` held-out samples of each mix."""
    with Model.load(path, n_gpu_layers=0) as model:
        return {
            (row.name, mix): run(model, row, make_samples(mix, n, seed, *size), tick)
            for row in rows
            for mix in MIXES
        }


def conversations(path: Path, n: int, tick: Tick = lambda: None) -> dict[tuple[str, str], Counts]:
    """Exact answers in `n` held-out conversations, by place and content of the turn.

    A turn is given the true history. It is right if its text is, and if it ends there.
    """
    found: dict[tuple[str, str], Counts] = {}
    with Model.load(path, n_gpu_layers=0) as model:
        for i in range(n):
            told = chat(stream(f"{HELD_OUT} chat", i))
            begins = [k for k in range(1, len(told.ids)) if told.kinds[k] >= 0 > told.kinds[k - 1]]
            before = 0
            for begin in begins:
                end = told.ids.index(EOS_ID, begin)
                asked, expected = (
                    detokenize(told.ids[a:b]) for a, b in ((before, begin), (begin, end))
                )
                text, last = generate(
                    model,
                    told.ids[:begin],
                    n_predict=end - begin + 20,
                    settings=FULL.settings(0, 0),
                )
                holds = [part for part in ("Facts", "Questions") if part in asked]
                count = found.setdefault(
                    ("later" if before else "first", " + ".join(holds)), Counts()
                )
                count.all += 1
                count.right += text == expected and last.finish_reason == "stop"
                before = end
            tick()
    return found


def bad_labels(results: Iterable[Result]) -> list[int]:
    """Numbers of the answers that are wrong far too often under the full cache."""
    wrong = ~np.concatenate([result.right for result in results])
    limit = max(MOST_WRONG, SHARE_WRONG * len(wrong))
    return [int(i) + 1 for i in np.flatnonzero(wrong.sum(0) > limit)]


def gates(results: dict[tuple[str, str], Result]) -> list[tuple[str, bool, str]]:
    """What a model must do to be shipped: name, whether it passed, the figures."""
    full = {mix: results[FULL.name, mix] for mix in MIXES}
    bad = bad_labels(full.values())
    ended = np.mean([result.ended.mean() for result in full.values()])
    hubs = {row.name: results[row.name, "hubs"].accuracy for row in ROWS}
    found = [
        (f"full cache, {mix}: at least .99", result.accuracy >= 0.99, f"{result.accuracy:.4f}")
        for mix, result in full.items()
    ]
    found.append(("no label is bad", not bad, str(bad or "none")))
    found.append(("outputs end by themselves: at least .9", bool(ended >= 0.9), f"{ended:.3f}"))
    for other, least in ((RECENT.name, 0.20), (H2O.name, 0.35)):
        margin = hubs[SCOPE.name] - hubs[other]
        figure = f"{margin:.3f} = {hubs[SCOPE.name]:.3f} - {hubs[other]:.3f}"
        name = f"hubs, SCOPE - {other}: at least {least:.2f}"
        found.append((name, margin >= least, figure))
    return found
