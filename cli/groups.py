"""Flags in groups: a dataclass for each panel of ``--help-all``, shared by the commands.

A command takes groups as its parameters; `as_command` gives typer one parameter for each flag.
"""

from __future__ import annotations

import copy
import functools
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import MISSING, fields, is_dataclass
from typing import Annotated, Any, get_args, get_type_hints

import typer

from scope_cpp.errors import WrongValue

from . import completion, help_page

HelpAll = Annotated[
    bool,
    typer.Option(
        "--help-all",
        callback=help_page.show_all,
        is_eager=True,
        help="Show all options and exit.",
        rich_help_panel=help_page.OUTPUT,
    ),
]


def flag(
    panel: str,
    *names: str,
    help: str,
    choices: str | None = None,
    complete: Callable[..., Any] | None = None,
    **extra: Any,
) -> Any:
    """Declare a flag; its environment variable is named after its first long spelling.

    Parameters
    ----------
    panel, names, help
        Where it is shown, how it is spelled, and what it does, in whole sentences.
    choices
        Reference to its valid names (see derive.py): a shell completes them, and they are the
        metavar if there is no other.
    complete
        What a shell completes, where that is no list of names.
    extra
        As of `typer.Option`. ``show_default`` is a text; without it the group's class says which
        default there is (see `as_command`).
    """
    long = next(name for name in names if name.startswith("--"))
    if choices is not None:
        extra.setdefault("metavar", f"{{{choices}!bars}}")
        complete = complete or completion.names_of(choices)
    return typer.Option(
        *names,
        help=help,
        rich_help_panel=panel,
        envvar=variable(long),
        autocompletion=complete,
        **extra,
    )


def variable(long: str) -> str:
    """Return the environment variable of a long spelling."""
    return "SCOPE_" + long.strip("-").replace("-", "_").upper()


def _spelling(name: str, groups: Iterable[Any]) -> str:
    """Return the first long spelling of the flag that sets a field; other names as they are."""
    for group in groups:
        kind = get_type_hints(group, include_extras=True).get(name)
        if kind is not None:
            return next(word for word in spellings(get_args(kind)[1]) if word.startswith("--"))
    return name


def spellings(declared: Any) -> tuple[str, ...]:
    """Return the spellings of a flag that `flag` declared."""
    # typer takes the first one for a default, where it is declared as an annotation
    return (declared.default, *declared.param_decls)


def given(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values that are not ``None``: the engine's defaults stand for the others."""
    return {name: value for name, value in values.items() if value is not None}


def as_command(function: Callable[..., None]) -> Callable[..., None]:
    """Return `function` with each parameter that is a group replaced by the group's flags.

    A flag that is ``None`` where it is not given leaves its value to the engine. A group names the
    class that has the engine's defaults, by the same names, in ``DEFAULTS``; help shows them. A
    value that the engine refuses is named by its flag, not by the engine's name of the setting.
    """
    hints = get_type_hints(function)
    groups: dict[str, Any] = {name: kind for name, kind in hints.items() if is_dataclass(kind)}

    @functools.wraps(function)
    def command(help_all: bool, **values: Any) -> None:
        built = {
            name: kind(**{item.name: values.pop(item.name) for item in fields(kind)})
            for name, kind in groups.items()
        }
        try:
            function(**values, **built)
        except WrongValue as err:
            raise err.renamed(_spelling(err.name, groups.values())) from None

    parameters = [*_parameters(function, groups), _parameter("help_all", HelpAll, False)]
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {item.name: item.annotation for item in parameters}
    return command


def _parameters(
    function: Callable[..., None], groups: dict[str, Any]
) -> Iterator[inspect.Parameter]:
    annotated = get_type_hints(function, include_extras=True)
    for name in inspect.signature(function).parameters:
        if name not in groups:
            yield _parameter(name, annotated[name])
            continue
        group = groups[name]
        kinds = get_type_hints(group, include_extras=True)
        for item in fields(group):
            default = inspect.Parameter.empty if item.default is MISSING else item.default
            kind = _with_default(kinds[item.name], item.name, getattr(group, "DEFAULTS", None))
            yield _parameter(item.name, kind, default)


def _parameter(name: str, kind: Any, default: Any = inspect.Parameter.empty) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=kind)


def _with_default(kind: Any, name: str, source: str | None) -> Any:
    """Let help show the default that a class of the engine has; a flag's own text counts more."""
    plain, declared = get_args(kind)
    if source is None or declared.show_default is not True:
        return kind
    declared = copy.copy(declared)
    declared.show_default = f"{{{source}.{name}}}"
    return Annotated[plain, declared]
