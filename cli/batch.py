"""``scope batch``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from .app import shows_first
from .batch_flags import (
    BatchLengthFlags,
    BatchOutputFlags,
    BatchPolicyFlags,
    BatchSamplingFlags,
    FileFlags,
    ParallelFlags,
    TemplateFlags,
    WhichRowsFlags,
)
from .flags import BudgetFlags, ComputeFlags, ModelFlags, PlacementFlags
from .interrupt import INTERRUPTED
from .ray_flags import RayFlags

if TYPE_CHECKING:
    from scope_cpp.batch.summary import Summary


@shows_first("-i", "-o", "-n", "-np", "--cells", "--budget", "--policy", "--temp", "-ngl", "--json")
def batch(
    ctx: typer.Context,
    model: ModelFlags,
    files: FileFlags,
    rows: WhichRowsFlags,
    at_once: ParallelFlags,
    template: TemplateFlags,
    length: BatchLengthFlags,
    budget: BudgetFlags,
    policy: BatchPolicyFlags,
    sampling: BatchSamplingFlags,
    placement: PlacementFlags,
    compute: ComputeFlags,
    ray: RayFlags,
    output: BatchOutputFlags,
) -> None:
    """Run a file of prompts, several at once. A run that was stopped is resumed.

    scope batch model.gguf -i prompts.jsonl -o records.jsonl -n 500 --budget 512
    """
    import sys

    from scope_cpp.batch.asked import check
    from scope_cpp.batch.job import Job

    from . import convert, process, ray_flags, terminal
    from .batch_flags import asked_of, defaults_of
    from .batch_screen import ctrl_c, progress, stdin
    from .interrupt import exit_at_once

    asked = asked_of(files, rows, at_once)
    defaults = defaults_of(budget, policy, compute, sampling, length, template)
    check(asked)  # before the model is loaded
    path = convert.model_path(model, ctx)
    process.prepare(verbose=output.verbose)
    with exit_at_once():
        loaded = ray_flags.load_model(ray, path, placement)
    with loaded:
        job = Job(
            asked,
            defaults,
            loaded,
            placement=convert.placement(placement),
            stdin=stdin() if asked.source is None else None,
            write=terminal.write,
            command=["scope", *sys.argv[1:]],
            warn=terminal.warning,
            note=terminal.note,
        )
        with (
            ctrl_c() as stop,
            progress() as advance,
            ray_flags.engines(ray, defaults.settings, placement, loaded) as engines,
        ):
            summary = job.run(engines, stop=stop, progress=advance)
    _report(summary, output.json, to_stdout=asked.output is not None)
    if not summary.complete and stop():
        raise typer.Exit(INTERRUPTED)
    if summary.n_failed:
        raise typer.Exit(1)


def _report(summary: Summary, as_json: bool, to_stdout: bool) -> None:
    """Say what came of it."""
    from scope_cpp.json_text import json_text

    from . import terminal

    text = json_text(summary.to_json()) if as_json else f"{summary.line()}\n"
    if as_json and to_stdout:
        terminal.write(text)
    else:
        terminal.note(text.rstrip("\n"))
    silence, error, left = summary.silence(), summary.error(), summary.how_to_go_on()
    if silence is not None:
        terminal.warning(silence)
    if error is not None:
        terminal.error(error)
    if left is not None:
        terminal.note(left)
