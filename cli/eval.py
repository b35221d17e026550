"""``scope eval``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from .app import Commands, add_command, shows_first
from .eval_flags import (
    CompareFlags,
    EvalRowFlags,
    Folder,
    Folders,
    PlainOutputFlags,
    ReportFlags,
    RunFlags,
    ScoreFlags,
    TaskFlags,
)
from .flags import ComputeFlags, ModelFlags, PlacementFlags
from .interrupt import INTERRUPTED

if TYPE_CHECKING:
    from scope_cpp.eval.result import Result


app = typer.Typer(
    name="eval",
    cls=Commands,
    help="Measure what eviction does to a model's answers.",
)


@shows_first(
    "--task", "--data", "--limit", "--rows", "--beta", "--template", "--out", "-j", "-o", "-t"
)
def run(
    ctx: typer.Context,
    model: ModelFlags,
    task: TaskFlags,
    rows: EvalRowFlags,
    placement: PlacementFlags,
    compute: ComputeFlags,
    output: RunFlags,
) -> None:
    """Run a task on a model with the full cache and with bounded ones of equal cells.

    scope eval run model.gguf --task gsm8k --data gsm8k_test.jsonl --beta 256 --limit 50
    """
    import sys
    from pathlib import Path

    from scope_cpp.eval.run import Evaluation
    from scope_cpp.eval.sample import Stop

    from . import convert, process, shipped, terminal
    from .eval_flags import asked_of, grid_of
    from .eval_screen import ctrl_c, progress
    from .interrupt import exit_at_once

    path = convert.model_path(model, ctx, shipped.path)
    grid = grid_of(rows, compute)
    grid.rows(1)  # what is wrong with rows is told before the model is loaded
    asked = asked_of(task, output.log_samples)
    process.prepare(verbose=output.verbose)
    with exit_at_once():
        loaded = convert.load_model(path, placement)
    with loaded:
        with exit_at_once():
            evaluation = Evaluation(
                asked,
                grid,
                loaded,
                out=None if output.out is None else Path(output.out),
                fresh=output.fresh,
                scorer=task.scorer,
                jobs=output.jobs,
                command=["scope", *sys.argv[1:]],
                warn=terminal.warning,
                note=terminal.note,
            )
        if model.named and task.task is None:
            terminal.warning(
                f"the task {asked.task} is a game that only the reference model knows: "
                "--task fidelity measures how far eviction moves this model"
            )
        stop = Stop()
        with ctrl_c(stop), progress() as advance:
            result = evaluation.run(stop, advance)
    _report(result, output.output)


def _report(result: Result, form: str) -> None:
    """Print what came of a run; end with its exit code."""
    from scope_cpp.eval.report import facts, render, shown

    from . import terminal
    from .eval_screen import draw, is_screen

    if form == "md" and is_screen() and result.n_finished:
        tables, legend = shown(result)
        for columns, records in tables:
            draw(columns, records)
        terminal.write(f"{legend}\n{facts(result)}\n")
    elif form != "md" or result.n_finished:
        terminal.write(render(result, form))
    if result.failed:
        first = result.failed[0]
        terminal.error(
            f"{len(result.failed)} of {result.n_all} samples failed, the first of them "
            f"{first.item!r} of {first.row!r}: {first.error}"
        )
    if result.interrupted:
        terminal.note(
            f"{result.n_finished} of {result.n_all} samples are finished; the same command goes on "
            f"from there, in {result.folder}"
        )
        raise typer.Exit(INTERRUPTED)
    if result.failed:
        raise typer.Exit(1)


def score(
    file: Annotated[str, typer.Argument(metavar="FILE", help="Outputs, a JSON object a line.")],
    task: ScoreFlags,
    output: PlainOutputFlags,
) -> None:
    """Score a file of outputs, and say how far the task's scorers are apart.

    scope eval score gsm8k.jsonl --scorer authors --json
    """
    from pathlib import Path

    from scope_cpp.eval.score import render
    from scope_cpp.eval.score import score as scored

    from . import terminal

    found = scored(
        Path(file),
        terminal.warning,
        task=task.task,
        scorer=task.scorer,
        data=None if task.data is None else Path(task.data),
        options=tuple(task.task_option or ()),
        seed=task.seed,
    )
    terminal.write(render(found, output.json))


def report(folders: Folders, output: ReportFlags) -> None:
    """Print the table of a run, rows by budgets, or sum up several runs of fidelity.

    scope eval report eval-runs/one --markdown
    """
    from scope_cpp.eval import overview
    from scope_cpp.eval.report import whole
    from scope_cpp.eval.result import read_result

    from . import terminal
    from .eval_screen import draw, is_screen

    if len(folders) > 1:
        _sum_up([read_result(folder) for folder in folders], output)
        return
    result = read_result(folders[0])
    if output.json:
        terminal.write(whole(result))
    elif output.markdown or not is_screen():
        terminal.write(overview.markdown(result))
    else:
        for columns, records in overview.tables(result):
            draw(columns, records)
        terminal.write(f"{overview.notes(result)}\n")


def _sum_up(results: list[Result], output: ReportFlags) -> None:
    from scope_cpp.eval.fidelity.summary import COLUMNS, LEGEND, render, shown, summary

    from . import terminal
    from .eval_screen import draw, is_screen

    if output.json or output.markdown or not is_screen():
        terminal.write(render(results, output.json))
    else:
        draw(COLUMNS, shown(summary(results)))
        terminal.write(f"{LEGEND}\n")


def compare(
    a: Folder,
    b: Folder,
    pairs: CompareFlags,
    output: PlainOutputFlags,
) -> None:
    """Compare two runs over the samples that both have.

    scope eval compare eval-runs/one eval-runs/other
    """
    from scope_cpp.eval.compare import COLUMNS, LEGEND, facts, render
    from scope_cpp.eval.compare import compare as compared
    from scope_cpp.eval.folder import RunFolder

    from . import terminal
    from .eval_screen import draw, is_screen

    found = compared(
        RunFolder.open(a),
        RunFolder.open(b),
        terminal.warning,
        scorer=pairs.scorer,
        rows=pairs.rows or (),
        seed=pairs.seed,
    )
    if is_screen() and not output.json:
        draw(COLUMNS, found.records)
        terminal.write(f"{LEGEND}\n{facts(found)}\n")
    else:
        terminal.write(render(found, output.json))


def tasks(output: PlainOutputFlags) -> None:
    """List the tasks, what data they need and where to get it."""
    from scope_cpp.eval.catalogue import catalogue, listing

    from . import terminal

    if output.json:
        terminal.write_json(catalogue(), indent=1)
    else:
        terminal.write(listing())


for function in (run, report, score, compare, tasks):
    add_command(app, function)
