"""``--config``: a TOML file whose keys are flags without their dashes.

Its values become the defaults of the command line, below flags and environment variables.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

_NOT_IN_A_FILE = {"config", "help", "help_all", "version", "install_completion", "show_completion"}


def read_config(ctx: typer.Context, path: str | None) -> str | None:
    """Read the file, callback of the flag.

    Raises
    ------
    UsageError
        If it can't be read or has a key that no command has. A key of another command is left
        alone, so that one file serves all.
    """
    if path is None or ctx.resilient_parsing:
        return path
    from scope_cpp.errors import UsageError
    from scope_cpp.near import did_you_mean

    values = {key.replace("-", "_"): value for key, value in _load(path).items()}
    known = {key for command in commands(ctx.find_root().command) for key in _keys(command)}
    unknown = sorted(set(values) - known)
    if unknown:
        key = unknown[0].replace("_", "-")
        valid = sorted(name.replace("_", "-") for name in known)
        meant = did_you_mean(key, valid) or f"; valid are {', '.join(valid)}"
        raise UsageError(f"{path}: unknown key {key!r}{meant}")
    names = _keys(ctx.command)
    ctx.default_map = {names[key]: _value(values[key]) for key in values if key in names}
    return path


def commands(group: Any) -> Iterator[Any]:
    """Yield all commands of a group, those of groups in it too."""
    for command in getattr(group, "commands", {}).values():
        yield command
        yield from commands(command)


def _keys(command: Any) -> dict[str, str]:
    """Spellings of a command's flags, and the parameters that they stand for."""
    keys = {
        name.lstrip("-").replace("-", "_"): param.name
        for param in command.params
        for name in param.opts
        if name.startswith("--")
    }
    return {key: name for key, name in keys.items() if key not in _NOT_IN_A_FILE}


def _load(path: str) -> dict[str, Any]:
    from scope_cpp.errors import UsageError
    from scope_cpp.texts import NotText, decode

    toml = _parser()
    try:
        return dict(toml.loads(decode(Path(path).read_bytes())))
    except OSError as err:
        raise UsageError(f"--config {path}: {err.strerror}") from None
    except NotText as err:
        raise UsageError(f"--config {path}: {err}") from None
    except (ValueError, RecursionError) as err:
        raise UsageError(f"--config {path} is not valid TOML: {err}") from None


def _parser() -> Any:
    """Python's TOML parser, or the package it came from on Python 3.10."""
    from importlib import import_module

    from scope_cpp.errors import UsageError

    for name in ("tomllib", "tomli"):
        try:
            return import_module(name)
        except ModuleNotFoundError:
            continue
    raise UsageError("--config needs Python 3.11, or the package tomli: pip install tomli")


def _value(value: Any) -> Any:
    """Turn a table, ``[option] beta1 = 48``, into the values of a repeatable flag."""
    if isinstance(value, dict):
        return [f"{key}={item}" for key, item in value.items()]
    return value
