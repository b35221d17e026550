"""``scope demo``."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from .flags import Config, Json, ModelFlags, Verbose
from .groups import flag

if TYPE_CHECKING:
    from scope_cpp.demo.run import Demo

    from .demo_screen import Screen
    from .interrupt import Interrupts

INTERRUPTED = 130

_sheet = partial(flag, "What is asked")
_cache = partial(flag, "KV cache")
_output = partial(flag, "Output")


@dataclass(frozen=True)
class SheetFlags:
    """What the model is asked."""

    samples: Annotated[
        int, _sheet("--samples", metavar="N", help="Sheets of facts and questions of each mix.")
    ] = 1
    questions: Annotated[
        int | None,
        _sheet(
            "--questions",
            metavar="N",
            help="Questions of a sheet, 18 tokens of output each; fewer facts with them.",
            show_default="228",
        ),
    ] = None
    mix: Annotated[
        str,
        _sheet(
            "--mix",
            metavar="both|uniform|hubs",
            help="uniform: a quarter of the questions refer back to an earlier answer; "
            "hubs: half, most of them to the same few.",
        ),
    ] = "both"
    seed: Annotated[int, _sheet("--seed", "-s", min=0, metavar="N", help="Draws the sheets.")] = 1
    sheets: Annotated[
        str | None,
        _sheet("--sheets", metavar="FILE", help="Take the sheets of a file of JSON lines."),
    ] = None


@dataclass(frozen=True)
class CellFlags:
    """What the bounded rows may keep."""

    beta: Annotated[
        int | None,
        _cache(
            "--beta",
            metavar="N",
            help="Cells beside the prompt's.",
            show_default="a ninth of the output",
        ),
    ] = None
    budget: Annotated[
        str | None,
        _cache("--budget", metavar="CELLS", help="For prompt and output: 2048, 2k, 50%, 4MiB."),
    ] = None


@dataclass(frozen=True)
class DemoOutputFlags:
    """What is printed."""

    n_threads: Annotated[
        int | None,
        flag(
            "Compute", "--threads", "-t", min=1, metavar="N", help="CPU threads.",
            show_default="cores",
        ),
    ] = None  # fmt: skip
    log_samples: Annotated[
        bool, _output("--log-samples", help="With --json: prompts, right answers and outputs.")
    ] = False
    json: Json = False
    verbose: Verbose = False
    config: Config = None


def demo(
    ctx: typer.Context,
    model: ModelFlags,
    sheet: SheetFlags,
    cells: CellFlags,
    output: DemoOutputFlags,
) -> None:
    """See what a bounded cache does to answers: SCOPE, H2O and StreamingLLM beside the full cache.

    The model that comes with scope-cpp reads facts and answers questions on them in one long
    text, once with each method. A minute or two on two cores; the time left is shown.
    """
    import json

    from scope_cpp.demo.report import record
    from scope_cpp.demo.request import Request
    from scope_cpp.demo.run import Demo
    from scope_cpp.engine import logs
    from scope_cpp.errors import UsageError

    from . import convert, shipped, terminal
    from .demo_screen import choose
    from .interrupt import Interrupts, exit_at_once

    if output.log_samples and not output.json:
        raise UsageError("--log-samples: give it with --json")
    path = convert.model_path(model, ctx, shipped.path)
    request = Request(
        n_samples=sheet.samples,
        mix=sheet.mix,
        seed=sheet.seed,
        n_questions=sheet.questions,
        beta=cells.beta,
        budget=cells.budget,
        sheets_file=sheet.sheets,
    )
    logs.capture(verbose=output.verbose)
    with exit_at_once(INTERRUPTED):
        loaded = convert.Model.load(path)
    with loaded, Interrupts() as pressed:
        shown = Demo(loaded, request.sheets(loaded), n_threads=output.n_threads or 0)
        screen = choose(output.json, output.verbose)
        with screen:
            _run(shown, screen, pressed)
    if output.verbose:
        for line in shown.warnings:
            terminal.warning(line)
    if output.json:
        content = record(shown, request, str(path), texts=output.log_samples)
        terminal.write(json.dumps(content) + "\n")
    if shown.interrupted:
        raise typer.Exit(INTERRUPTED)


def _run(shown: Demo, screen: Screen, pressed: Interrupts) -> None:
    """Run until the end, or until Ctrl-C: what is finished then is shown as always."""
    screen.begin(shown)
    steps = shown.run()
    try:
        for outcome in steps:
            if pressed.count:
                break
            screen.update(shown, outcome)
    finally:
        steps.close()
    screen.end(shown)
