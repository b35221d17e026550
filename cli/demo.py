"""``scope demo``."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING, Annotated, ClassVar

import typer

from .app import shows_first
from .flags import Config, Json, ModelFlags, Verbose
from .groups import flag, given
from .help_page import OUTPUT
from .interrupt import INTERRUPTED

if TYPE_CHECKING:
    from scope_cpp.demo.run import Demo

    from .demo_screen import Screen
    from .interrupt import Interrupts


_sheet = partial(flag, "What is asked")
_cache = partial(flag, "KV cache")
_output = partial(flag, OUTPUT)


@dataclass(frozen=True)
class SheetFlags:
    """What the model is asked."""

    DEFAULTS: ClassVar[str] = "demo.request:Request"

    n_samples: Annotated[
        int | None,
        _sheet(
            "--samples",
            metavar="N",
            help="Number of sheets of facts and questions; with two mixes, of each.",
        ),
    ] = None
    n_questions: Annotated[
        int | None,
        _sheet(
            "--questions",
            metavar="N",
            help="Questions on a sheet. Each takes 18 tokens of output. A sheet with fewer"
            " questions has fewer facts.",
            show_default="{demo.request:N_QUESTIONS}",
        ),
    ] = None
    mix: Annotated[
        str | None,
        _sheet(
            "--mix",
            choices="demo.request:MIX_NAMES",
            help="Which questions refer back to an earlier answer. uniform: a quarter of them."
            " hubs: half of them, most to the same few answers.",
        ),
    ] = None
    seed: Annotated[
        int | None,
        _sheet("--seed", "-s", min=0, metavar="N", help="Seed that the sheets are drawn with."),
    ] = None
    sheets_file: Annotated[
        str | None,
        _sheet(
            "--sheets", metavar="FILE", help="Take the sheets from a file, a JSON object a line."
        ),
    ] = None


@dataclass(frozen=True)
class CellFlags:
    """What the bounded rows may keep."""

    beta: Annotated[
        int | None,
        _cache(
            "--beta",
            metavar="N",
            help="Cells beside those of the prompt.",
            show_default="1/{demo.sheet:SHARE} of the output",
        ),
    ] = None
    budget: Annotated[
        str | None,
        _cache(
            "--budget",
            metavar="CELLS",
            help="Cells for prompt and output, instead of --beta: 2048, 2k, 50% or 4MiB.",
        ),
    ] = None


@dataclass(frozen=True)
class DemoOutputFlags:
    """What is printed."""

    n_threads: Annotated[
        int | None,
        flag(
            "Compute",
            "--threads",
            "-t",
            min=1,
            metavar="N",
            help="CPU threads.",
            show_default="one for each physical core",
        ),
    ] = None
    log_samples: Annotated[
        bool,
        _output("--log-samples", help="With --json, print prompts, right answers and outputs too."),
    ] = False
    json: Json = False
    verbose: Verbose = False
    config: Config = None


@shows_first(
    "--samples", "--questions", "--mix", "--seed", "--beta", "--budget", "--threads", "--json"
)
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
    from scope_cpp.demo.report import record
    from scope_cpp.demo.request import Request
    from scope_cpp.demo.run import Demo
    from scope_cpp.errors import UsageError

    from . import convert, process, shipped, terminal
    from .demo_screen import choose
    from .interrupt import Interrupts, exit_at_once

    if output.log_samples and not output.json:
        raise UsageError("--log-samples: give it with --json")
    path = convert.model_path(model, ctx, shipped.path)
    request = Request(**given({**asdict(sheet), **asdict(cells)}))
    process.prepare(verbose=output.verbose)
    with exit_at_once():
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
        terminal.write_json(content)
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
