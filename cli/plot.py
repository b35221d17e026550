"""``scope plot``: pictures of runs, and of what a model attends to."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from .app import Commands, add_command, shows_first
from .flags import BudgetFlags, ComputeFlags, ModelFlags, PlacementFlags, PolicyFlags, PromptFlags
from .plot_flags import (
    DriftFlags,
    HeadFlags,
    LongestFlags,
    Measured,
    MethodFlags,
    PictureFlags,
    RowsFlags,
    RunFolder,
    RunFolders,
    numbers,
    share,
)

if TYPE_CHECKING:
    from scope_cpp.engine.generate import Generation
    from scope_cpp.engine.settings import Settings
    from scope_cpp.figures.figure import Figure


app = typer.Typer(
    name="plot",
    cls=Commands,
    help="Draw figures of runs and of attention. Each comes with its numbers as CSV.",
)


def questions(run: RunFolder, rows: RowsFlags, picture: PictureFlags) -> None:
    """Draw the accuracy by question, or the KL divergence by token, a line for each row of a run.

    scope plot questions eval-runs/reference -o questions.png
    """

    def make() -> Figure:
        from scope_cpp.figures import questions, runs

        return questions.questions(runs.open_run(run), rows.rows or ())

    _show("questions", picture, make)


def budget(runs: RunFolders, picture: PictureFlags) -> None:
    """Draw the accuracy or divergence against the decode budget, a line or row for each method.

    scope plot budget eval-runs/reference -o budget.png
    """

    def make() -> Figure:
        from scope_cpp.figures import budget
        from scope_cpp.figures.runs import open_runs

        return budget.budget(open_runs(runs))

    _show("budget", picture, make)


def prefill(runs: RunFolders, picture: PictureFlags) -> None:
    """Draw the accuracy against the rows that a layer keeps of the prompt, a line for each method.

    scope plot prefill eval-runs/prefill -o prefill.png
    """

    def make() -> Figure:
        from scope_cpp.figures import prefill
        from scope_cpp.figures.runs import open_runs

        return prefill.prefill(open_runs(runs))

    _show("prefill", picture, make)


def cost(measured: Measured, picture: PictureFlags) -> None:
    """Draw memory and speed of each method.

    scope plot cost eval-runs/reference -o cost.png
    """

    def make() -> Figure:
        from scope_cpp.figures import cost

        return cost.cost(measured)

    _show("cost", picture, make)


@shows_first("-hf", "-p", "-f", "-n", "--top", "--layers", "-o", "--csv", "--text", "-ngl")
def drift(
    ctx: typer.Context,
    model: ModelFlags,
    prompt: PromptFlags,
    length: LongestFlags,
    what: DriftFlags,
    placement: PlacementFlags,
    compute: ComputeFlags,
    picture: PictureFlags,
) -> None:
    """Draw where the heavy hitters lie as the output of a model gets longer, with the full cache.

    scope plot drift model.gguf -f prompt.txt -n 1000 -o drift.png
    """
    from scope_cpp.figures.drift import drift

    from . import convert

    top, layers = share(what.top), numbers(what.layers)
    _watch(
        "drift",
        (ctx, model, prompt, placement),
        length.n_predict,
        convert.settings(BudgetFlags(), PolicyFlags(policy="full"), compute),
        picture,
        lambda generation, run: drift(generation, run, top, layers),
    )


@shows_first("-hf", "-p", "-f", "-n", "--budget", "--policy", "--layer", "--head", "-o", "--text")
def heatmap(
    ctx: typer.Context,
    model: ModelFlags,
    prompt: PromptFlags,
    length: LongestFlags,
    what: HeadFlags,
    budget: BudgetFlags,
    policy: MethodFlags,
    placement: PlacementFlags,
    compute: ComputeFlags,
    picture: PictureFlags,
) -> None:
    """Draw a head's attention while a model writes, and which cells it was left.

    scope plot heatmap model.gguf -f prompt.txt --budget 512 --layer 1 --head 0
    """
    from scope_cpp.figures.heatmap import heatmap

    from . import convert, terminal

    def make(generation: Generation, run: str) -> Figure:
        figure = heatmap(generation, run, what.layer, what.head)
        if not generation.sizes.bounded and policy.policy != "full":
            terminal.warning("all fits into the budget, nothing is given up: give less (--budget)")
        return figure

    _watch(
        "heatmap",
        (ctx, model, prompt, placement),
        length.n_predict,
        convert.settings(budget, policy, compute),
        picture,
        make,
    )


for function in (questions, budget, prefill, cost, drift, heatmap):
    add_command(app, function)


def _show(name: str, picture: PictureFlags, make: Callable[[], Figure]) -> None:
    """Make a figure and bring it to where it goes; where that is, is checked first."""
    import sys

    from scope_cpp.figures import marks, output, style

    from . import terminal

    to = output.target(name, picture.picture, picture.csv, picture.text or picture.json)
    figure = make()
    for path in output.write(figure, to):
        terminal.note(f"wrote {path}")
    if picture.json:
        terminal.write(output.as_json(figure))
    elif to.picture is None:
        terminal.write(output.as_text(figure, marks.marks_for(sys.stdout.encoding)))
        if not (picture.text or picture.picture):
            terminal.note(f"a picture needs matplotlib: {style.INSTALL}")


def _watch(
    name: str,
    source: tuple[typer.Context, ModelFlags, PromptFlags, PlacementFlags],
    n_predict: int,
    settings: Settings,
    picture: PictureFlags,
    make: Callable[[Generation, str], Figure],
) -> None:
    """Make a figure of a greedy generation."""
    from scope_cpp.engine.generate import Generation
    from scope_cpp.engine.sampling import SamplingParams
    from scope_cpp.figures.observe import describe
    from scope_cpp.reference.shipped import model_label

    from . import convert, process, shipped, terminal
    from .interrupt import exit_at_once
    from .prompt import format_prompt, read_prompt

    ctx, model, prompt, placement = source
    process.prepare(verbose=picture.verbose)

    def run() -> Figure:
        path = convert.model_path(model, ctx, shipped.path)
        text = read_prompt(prompt)
        with exit_at_once(), convert.load_model(path, placement) as loaded:
            text, stops, parse_special = format_prompt(loaded, prompt, text, terminal.warning)
            with Generation(
                loaded,
                text,
                n_predict=n_predict,
                settings=settings,
                sampling=SamplingParams(temp=0),
                stop=stops,
                parse_special=parse_special,
                warn=terminal.warning,
            ) as generation:
                if terminal.is_terminal():
                    terminal.note(f"writing up to {n_predict} tokens")
                return make(generation, describe(generation, model_label(Path(path))))

    _show(name, picture, run)
