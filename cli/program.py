"""The ``scope`` program: its commands, and what they have in common.

Nothing of the engine is imported here, so that ``scope --help`` answers at once: each command
imports what it needs when it runs.
"""

from __future__ import annotations

from typing import Annotated

import typer

from .app import ScopeCommand, ScopeGroup, add_command
from .batch import batch
from .bench import bench
from .chat import chat
from .demo import demo
from .doctor import doctor
from .eval import app as eval_app
from .generate import generate
from .inspect import inspect
from .plot import app as plot_app
from .ray_flags import RayCommand
from .serve import serve

app = typer.Typer(
    name="scope",
    cls=ScopeGroup,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

for function in (demo, chat, generate, batch, serve, inspect, doctor, bench):
    add_command(app, function, RayCommand if function is batch else ScopeCommand)
app.add_typer(eval_app)
app.add_typer(plot_app)


def _version(asked: bool) -> None:
    if asked:
        from scope_cpp import __version__

        typer.echo(f"scope-cpp {__version__}")
        raise typer.Exit


@app.callback()
def scope(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    """Write long texts with GGUF models in a KV cache of a fixed size, on llama.cpp.

    Options are spelled as llama.cpp's. Each can also be set by an environment variable: SCOPE_ and
    its long name, such as SCOPE_BUDGET=2k for --budget 2k.

    Exit codes: 0 done, 1 failed, 2 wrong request, 130 Ctrl-C.
    """
