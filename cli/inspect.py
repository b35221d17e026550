"""``scope inspect``."""

from __future__ import annotations

import typer

from .app import shows_first
from .flags import BudgetFlags, ModelFlags, OutputFlags
from .groups import given


@shows_first("-hf", "-c", "--budget", "-ctk", "-ctv", "--json")
def inspect(
    ctx: typer.Context, model: ModelFlags, budget: BudgetFlags, output: OutputFlags
) -> None:
    """Show what a model file is, what its KV cache takes, and whether it can be bounded.

    scope inspect model.gguf -c 32768 --budget 2k -ctk q8_0 -ctv q8_0
    """
    from dataclasses import asdict

    from scope_cpp.engine.inspect import describe, examine

    from . import convert, process, terminal

    process.prepare(verbose=output.verbose)
    found = examine(convert.model_path(model, ctx), warn=terminal.warning, **given(asdict(budget)))
    if output.json:
        terminal.write_json(asdict(found))
    else:
        terminal.write(terminal.table(describe(found)))
