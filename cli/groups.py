"""Flags in groups: a dataclass for each panel of ``--help``, shared by the commands.

A command takes groups as its parameters; `as_command` gives typer one parameter for each flag.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator
from dataclasses import MISSING, fields, is_dataclass
from typing import Any, get_type_hints

import typer


def flag(panel: str, *names: str, help: str, **extra: Any) -> Any:
    """Declare a flag; its environment variable is named after its first long spelling."""
    long = next(name for name in names if name.startswith("--"))
    variable = "SCOPE_" + long.strip("-").replace("-", "_").upper()
    return typer.Option(*names, help=help, rich_help_panel=panel, envvar=variable, **extra)


def as_command(function: Callable[..., None]) -> Callable[..., None]:
    """Return `function` with each parameter that is a group replaced by the group's flags."""
    hints = get_type_hints(function)
    groups: dict[str, Any] = {name: kind for name, kind in hints.items() if is_dataclass(kind)}

    @functools.wraps(function)
    def command(**values: Any) -> None:
        built = {
            name: kind(**{item.name: values.pop(item.name) for item in fields(kind)})
            for name, kind in groups.items()
        }
        function(**values, **built)

    parameters = list(_parameters(function, groups))
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {item.name: item.annotation for item in parameters}
    return command


def _parameters(
    function: Callable[..., None], groups: dict[str, Any]
) -> Iterator[inspect.Parameter]:
    annotated = get_type_hints(function, include_extras=True)
    for name in inspect.signature(function).parameters:
        if name not in groups:
            kind = annotated[name]
            yield inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=kind)
            continue
        kinds = get_type_hints(groups[name], include_extras=True)
        for item in fields(groups[name]):
            default = inspect.Parameter.empty if item.default is MISSING else item.default
            yield inspect.Parameter(
                item.name,
                inspect.Parameter.KEYWORD_ONLY,
                default=default,
                annotation=kinds[item.name],
            )
