"""Environment variables that look like ours, and that nothing reads."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

from scope_cpp.near import nearest

from . import terminal
from .config import commands

_PREFIX = "SCOPE_"

# read by the engine, the tests and the build, and not by a flag
_OTHERS = (
    *("SCOPE_MODELS", "SCOPE_STOCK_LIB", "SCOPE_TEST_DATA", "SCOPE_RPC_LIB"),
    *("SCOPE_STOCK", "SCOPE_PORTABLE", "SCOPE_LLAMA_SDIST"),
)


def warn_of_unknown(ctx: Any) -> None:
    """Warn of each variable that is called ``SCOPE_...`` and is none, with the nearest name."""
    found = {name for name in os.environ if name.upper().startswith(_PREFIX)}
    found -= {*_OTHERS, *_of(ctx.command)}
    if not found:  # the parameters of all commands are made only where one may be wrong
        return
    known = {*_OTHERS, *(name for one in commands(ctx.find_root().command) for name in _of(one))}
    meant = {name.removeprefix(_PREFIX): name for name in sorted(known)}
    for name in sorted(found - known):
        near = [meant[one] for one in nearest(name[len(_PREFIX) :], meant, n=1)]
        hint = f" (did you mean {near[0]}?)" if near else ""
        terminal.warning(f"the environment variable {name} is not known{hint}: nothing reads it")


def _of(command: Any) -> Iterator[str]:
    """Yield the variables of a command."""
    for param in command.params:
        if isinstance(param.envvar, str):
            yield param.envvar
