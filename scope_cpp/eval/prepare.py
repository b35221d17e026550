"""What a run needs before anything runs: its items, its rows, its scorer, its folder."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import zip_longest
from pathlib import Path

from scope_cpp.engine import capability
from scope_cpp.engine.model import Model
from scope_cpp.errors import ScopeError, UsageError
from scope_cpp.eval.asked import Asked
from scope_cpp.eval.config import Config, differences, folder_name
from scope_cpp.eval.fidelity import measure
from scope_cpp.eval.folder import RunFolder
from scope_cpp.eval.grid import DEFAULT_SHARE, Grid
from scope_cpp.eval.rows import Row
from scope_cpp.eval.task import Item, Source, Task
from scope_cpp.near import valid_are

Line = Callable[[str], None]

FOLDERS = Path("eval-runs")


def settle(asked: Asked, task: Task, model: Model, note: Line) -> Asked:
    """Return what is asked, with the task's own values where the user says nothing.

    A task that compares rows with the full cache's text wants the model's usual writing: prompts go
    through the model's own template, where it has one.
    """
    temp = task.temp if asked.temp is None else asked.temp
    template = asked.template
    if task.compares and not template:
        template = model.chat_template is not None
        if not template:
            note(
                f"{model.path.name} has no chat template: it continues the prompts as plain text "
                "(--chat-template gives it one)"
            )
    return replace(asked, temp=temp, template=template)


def read_items(
    task: Task, asked: Asked, model: Model, warn: Line
) -> tuple[list[Item], dict[str, int]]:
    """Return the items of a task, at least one, and the seed of each by its id.

    The items of several seeds take turns, so that a run that is stopped has some of each. Where
    their ids do not tell the seeds apart, these are added.

    Raises
    ------
    UsageError, ScopeError
        As of `Task.items`; for none, or two of one id; and for several seeds that change nothing.
    """
    drawn = [_items_of(task, asked, seed, model, warn) for seed in asked.seeds]
    if not asked.temp and any(items == drawn[0] for items in drawn[1:]):
        raise UsageError(
            f"the samples of {task.name} are the same for every seed here: give one --seed, or "
            "--temp to draw other outputs"
        )
    if len({item.id for items in drawn for item in items}) < sum(map(len, drawn)):
        drawn = [
            [replace(item, id=f"{item.id}, seed {seed}") for item in items]
            for seed, items in zip(asked.seeds, drawn, strict=True)
        ]
    seeds = {i.id: seed for seed, items in zip(asked.seeds, drawn, strict=True) for i in items}
    found = [item for turn in zip_longest(*drawn) for item in turn if item is not None]
    if task.compares:
        found = measure.fitting(found, model, asked.template, warn)
    return found, seeds


def _items_of(task: Task, asked: Asked, seed: int, model: Model, warn: Line) -> list[Item]:
    """Return the items of one seed; errors as of `read_items`."""

    def tokenize(text: str) -> list[int]:
        return model.tokenize(text, add_special=True, parse_special=False)

    source = Source(
        data=asked.data,
        limit=asked.limit,
        seed=seed,
        warn=warn,
        options=asked.task_options,
        tokenize=tokenize,
    )
    items = task.items(source)
    if not items:
        raise ScopeError(f"{task.name}: there is no sample: give other data (--data)")
    name, n = Counter(item.id for item in items).most_common(1)[0]
    if n > 1:
        raise ScopeError(f"{task.name}: {n} samples are called {name!r}: give other data (--data)")
    return items


def make_rows(task: Task, grid: Grid, items: Sequence[Item], model: Model, note: Line) -> list[Row]:
    """Return the rows that are asked for; without a budget they have a share of the output.

    Raises
    ------
    UsageError
        As of `Grid.rows`.
    ScopeError
        For a model that no row but the full cache could run.
    """
    beta: int | str = 1
    if not (grid.betas or grid.budgets):
        beta = _default_beta(task, items, model, note)
    rows = replace(grid, sized=task.compares).rows(beta)
    if task.compares:
        rows = measure.settled(rows, model)
    asked = {(r.settings.type_k, r.settings.type_v, r.settings.flash_attn)
             for r in rows if not r.is_full}  # fmt: skip
    for kinds in sorted(asked):
        capability.require(model.path, model.arch, *kinds)
    return rows


def _default_beta(task: Task, items: Sequence[Item], model: Model, note: Line) -> int | str:
    if task.compares:
        note(f"1/{DEFAULT_SHARE} of each text's cells beside the prompt (--beta, --budget)")
        return f"1/{DEFAULT_SHARE}"
    longest = max(item.n_predict + _n_forced(item, model) for item in items)
    beta = max(1, longest // DEFAULT_SHARE)
    note(
        f"{beta} cells beside the prompt, 1/{DEFAULT_SHARE} of the longest output "
        "(--beta, --budget)"
    )
    return beta


def _n_forced(item: Item, model: Model) -> int:
    if item.prompt_tokens or not item.forced:
        return len(item.forced_tokens)
    return len(model.tokenize(item.forced, add_special=False, parse_special=False))


def check_scorer(task: Task, name: str | None) -> str:
    """Return the scorer of that name, the task's first without one."""
    if name is None:
        return task.scorers[0]
    if name not in task.scorers:
        raise UsageError(f"{task.name} has no scorer {name!r}{valid_are(name, task.scorers)}")
    return name


def choose_folder(config: Config, out: Path | None, fresh: bool, warn: Line) -> RunFolder:
    """Return the run's folder: a new one, or the one in which it goes on.

    Raises
    ------
    UsageError
        If the folder holds another run, or something else.
    """
    path = out or FOLDERS / folder_name(config)
    if fresh and path.exists():
        path = _unused(path)
    if not RunFolder.exists(path):
        return RunFolder.create(path, config)
    folder = RunFolder.open(path)
    different = differences(folder.config, config)
    if different:
        raise UsageError(
            f"{path} holds another run: {'; '.join(different)}: name another folder (--out), or "
            "take a new one beside it (--fresh)"
        )
    before, now = folder.config["versions"], config["versions"]
    for name in ("scope_cpp", "llama_cpp", "abi", "devices"):
        if before.get(name) != now[name]:
            warn(f"{path} was begun with {name} {before.get(name)}, this is {now[name]}")
    return folder


def _unused(path: Path) -> Path:
    numbers = (path.with_name(f"{path.name}-{number}") for number in range(2, 10_000))
    return next(candidate for candidate in numbers if not candidate.exists())
