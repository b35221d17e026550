"""``scope bench``."""

from __future__ import annotations

import typer

from .app import shows_first
from .bench_flags import BenchFlags, BenchOutputFlags, RowFlags
from .flags import ComputeFlags, ModelFlags
from .interrupt import INTERRUPTED


@shows_first("--test", "-p", "-d", "-n", "-r", "--policy", "--beta", "-np", "--wide", "-t")
def bench(
    ctx: typer.Context,
    model: ModelFlags,
    test: BenchFlags,
    row: RowFlags,
    compute: ComputeFlags,
    output: BenchOutputFlags,
) -> None:
    """Measure speed and memory of bounded caches and of the full cache, taking turns.

    scope bench model.gguf -d 4096,16384 --policy scope-slide,scope-discontinuous
    """
    import sys

    from scope_cpp.bench import plot
    from scope_cpp.bench.measure import Bench
    from scope_cpp.bench.report import render
    from scope_cpp.bench.run import name

    from . import process, terminal
    from .bench_flags import request_of
    from .convert import model_path
    from .interrupt import exit_at_once

    request = request_of(model_path(model, ctx), test, row, compute)
    if output.plot is not None:
        plot.check(output.plot)
    process.prepare(verbose=False)
    note = terminal.note if output.progress or output.verbose else lambda line: None
    with exit_at_once():
        prepared = Bench(request, terminal.warning, note, output.verbose)
    report = prepared.run()
    wide = output.wide and output.output == "table"
    terminal.write(render(report, "md" if wide else output.output, ["scope", *sys.argv[1:]]))
    for outcome in report.outcomes:
        if outcome.error is not None:
            terminal.error(f"{name(outcome)}: {outcome.error}")
    if output.plot is not None and not report.interrupted:
        plot.save(report.records(), output.plot)
    if report.interrupted:
        raise typer.Exit(INTERRUPTED)
    if report.failed:
        raise typer.Exit(1)
