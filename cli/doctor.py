"""``scope doctor``."""

from __future__ import annotations

import typer

from .flags import OutputFlags


def doctor(output: OutputFlags) -> None:
    """Show the installation and test it on a tiny model, against a reference."""
    from dataclasses import asdict

    from scope_cpp.engine.doctor import describe, examine

    from . import terminal

    found = examine(verbose=output.verbose)
    if output.json:
        terminal.write_json(asdict(found))
    else:
        terminal.write(terminal.table(describe(found)))
    for check in found.failed:
        terminal.error(f"{check.name}: {check.detail}")
    if found.failed:
        raise typer.Exit(1)
