"""A whole file of outputs: scored without running anything.

Two forms are known, by their fields, a JSON object on each line:

``prompt, answers, pred``
    The SCOPE authors' generations on LongGenBench; the answers are in the file.
``id, output`` (or ``text``, ``pred``)
    Outputs of any task; the items come from the task's own data, by their ids.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from scope_cpp.errors import ScopeError, UsageError
from scope_cpp.eval import stats
from scope_cpp.eval.task import Item, Output, Score, Source, Task
from scope_cpp.eval.tasks import find
from scope_cpp.eval.tasks.data import BadRow, Row, Skipped, rows
from scope_cpp.eval.tasks.longgenbench import LongGenBench, recognise
from scope_cpp.near import valid_are

Answered = tuple[Item, str]
_TEXTS = ("output", "text", "pred")


@dataclass(frozen=True)
class FileScore:
    """What a file of outputs is worth.

    Attributes
    ----------
    task, scorer : str
        What was scored, and how.
    total : float
        As of `Task.total`, 0 to 1.
    n : int
        Outputs that count, missing ones included.
    by_question : tuple of float
        Mean of the n-th question over the outputs that have so many.
    by_item : dict
        Score of each output by id.
    problems : tuple of str
        What was odd about which output.
    missing : tuple of str
        Ids of items without an output: they count as wrong.
    sample : Sample
        What a bootstrap draws from: the scores of all outputs, missing ones included.
    """

    task: str
    scorer: str
    total: float
    n: int
    by_question: tuple[float, ...]
    by_item: dict[str, float]
    problems: tuple[str, ...]
    missing: tuple[str, ...]
    sample: stats.Sample = field(repr=False, compare=False)

    @property
    def percent(self) -> float:
        """The total in per cent to four digits, as the SCOPE authors print it."""
        return round(100 * self.total, 4)


def score_file(
    path: Path,
    task_name: str | None,
    scorer: str | None,
    data: Path | None,
    warn: Callable[[str], None],
    options: tuple[str, ...] = (),
    seed: int = 0,
) -> FileScore:
    """Score a file of outputs.

    Parameters
    ----------
    path
        The file.
    task_name
        The task; None for the authors' form, whose answers say which it is.
    scorer
        One of the task's scorers; None: its first.
    data, options, seed
        Where the task's items come from; not for the authors' form, which has the answers.
    warn
        Takes one line about each row that is skipped.

    Raises
    ------
    UsageError
        The file does not exist, or does not go with the task, the scorer or the data.
    ScopeError
        The file holds no usable row.
    """
    if not path.is_file():
        raise UsageError(f"{path} does not exist: give a file of outputs")
    skipped = Skipped(path)
    good: list[tuple[str, Row]] = []
    for place, row in rows(path):
        if isinstance(row, BadRow):
            skipped.add(place, row)
        else:
            good.append((place, row))
    missing: tuple[str, ...] = ()
    if not good:
        task, outputs = None, list[Answered]()
    elif any("answers" in row and "pred" in row for _, row in good):
        if data is not None or options:
            raise UsageError(f"{path} holds the answers: leave out --data and --task-option")
        task, outputs = _with_answers(good, task_name, skipped)
    elif task_name is None:
        raise UsageError(f"{path} does not hold the answers: name the task by --task")
    else:
        task = find(task_name)
        items = task.items(Source(data=data, seed=seed, warn=warn, options=options))
        outputs, missing = _by_id(good, items, skipped)
    if task is None or len(missing) == len(outputs):
        raise ScopeError(
            f"{path}: no output to score ({skipped.why()}): a line needs 'prompt', 'answers' and"
            " 'pred', or 'id' and 'output'"
        )
    skipped.tell(warn)
    return _summed(task, _scorer(task, scorer), outputs, missing)


def _scorer(task: Task, name: str | None) -> str:
    if name is not None and name not in task.scorers:
        valid = valid_are(name, task.scorers)
        raise UsageError(f"the task {task.name} has no scorer {name!r}{valid}")
    return name or task.scorers[0]


def _with_answers(
    good: list[tuple[str, Row]], name: str | None, skipped: Skipped
) -> tuple[Task | None, list[Answered]]:
    """Pair the authors' rows with their outputs; the first row says which task it is."""
    task = find(name) if name else None
    if task is not None and not isinstance(task, LongGenBench):
        raise UsageError(f"{skipped.path} holds outputs on LongGenBench, not on {task.name}")
    pairs: list[Answered] = []
    for place, row in good:
        try:
            task = task or recognise(row)
            gold, output = task.gold(row), _text(row)
        except BadRow as reason:
            skipped.add(place, reason)
            continue
        pairs.append((Item(place, row["prompt"], 0, gold.to_json()), output))
    return task, pairs


def _by_id(
    good: list[tuple[str, Row]], items: list[Item], skipped: Skipped
) -> tuple[list[Answered], tuple[str, ...]]:
    """Pair items with the outputs that name them, all others with none."""
    known = {item.id for item in items}
    texts: dict[str, str] = {}
    for place, row in good:
        try:
            name = str(row.get("id", row.get("item", "")))
            if name not in known:
                raise BadRow(f"no item has the id {name!r}" if name else "no field 'id'")
            if name in texts:
                raise BadRow(f"a second output of {name!r}")
            texts[name] = _text(row)
        except BadRow as reason:
            skipped.add(place, reason)
    missing = tuple(item.id for item in items if item.id not in texts)
    return [(item, texts.get(item.id, "")) for item in items], missing


def _text(row: dict[str, Any]) -> str:
    value = next((row[key] for key in _TEXTS if key in row), None)
    if not isinstance(value, str):
        raise BadRow(f"no text in {' or '.join(map(repr, _TEXTS))}")
    return value


def _summed(
    task: Task, scorer: str, outputs: list[Answered], missing: tuple[str, ...]
) -> FileScore:
    scores = {item.id: task.score(item, Output(text, 0, ""), scorer) for item, text in outputs}
    return FileScore(
        task=task.name,
        scorer=scorer,
        total=task.total(list(scores.values())),
        n=len(scores),
        by_question=tuple(_columns(list(scores.values()))),
        by_item={name: score.value for name, score in scores.items()},
        problems=tuple(
            f"{name}: {problem}"
            for name, score in scores.items()
            if name not in missing
            for problem in score.problems
        ),
        missing=missing,
        sample=stats.sample_of(task, list(scores.values())),
    )


def _columns(scores: list[Score]) -> Iterator[float]:
    """Yield the mean of the n-th question over the scores that have one."""
    for n in range(max(len(score.correct) for score in scores)):
        column = [score.correct[n] for score in scores if n < len(score.correct)]
        yield sum(column) / len(column)
