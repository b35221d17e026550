"""From flags to what the engine takes."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import typer

from scope_cpp.engine.catalog import find, require_file
from scope_cpp.engine.model import Model
from scope_cpp.engine.sampling import SamplingParams, model_defaults
from scope_cpp.engine.settings import Settings
from scope_cpp.errors import UsageError, Warn, ignore

from . import terminal
from .download import known_model
from .escapes import unescaped
from .flags import (
    BudgetFlags,
    ComputeFlags,
    LengthFlags,
    ModelFlags,
    PlacementFlags,
    PolicyFlags,
    SamplingFlags,
)
from .groups import given
from .interrupt import exit_at_once
from .prompt import read_text

_SOURCES = ("COMMANDLINE", "ENVIRONMENT", "DEFAULT_MAP")
_BIAS = re.compile(r"(\d+)(?:=|(?=[+-]))(.+)")


def model_path(
    flags: ModelFlags, ctx: typer.Context, otherwise: Callable[[], str] | None = None
) -> str:
    """Return the model's path, downloaded if need be.

    One on the command line wins over one of a variable, and that over one of the config. Where
    none is given, `otherwise` says which it is.

    Raises
    ------
    UsageError
        If none is given, or two in the same way, or the hub does not have it.
    ScopeError
        If it can't be downloaded.
    """
    given = {
        "the path": (flags.model_path, _rank(ctx, "model_path")),
        "-m": (flags.model, _rank(ctx, "model")),
        "-hf": (flags.hf_repo, _rank(ctx, "hf_repo")),
    }
    given = {name: (value, rank) for name, (value, rank) in given.items() if value}
    if not flags.named and not flags.hf_file and otherwise is not None:
        return otherwise()
    if not given:
        raise UsageError(
            "no model: give the path of a GGUF file, or a name such as -m smollm2 or -hf user/repo"
        )
    best = min(rank for _, rank in given.values())
    names = {name: str(value) for name, (value, rank) in given.items() if rank == best}
    if len(names) > 1:
        raise UsageError(f"two models, {' and '.join(names.values())}: leave one out")
    if "-hf" in names:
        return _fetch(flags)
    if flags.hf_file and _rank(ctx, "hf_file") <= best:
        raise UsageError(f"-hff {flags.hf_file} names a file of a repository: give that with -hf")
    (path,) = names.values()
    if find(path) is None:
        require_file(path)
        if not Path(path).exists():
            raise UsageError(f"{path} does not exist: give the path of a GGUF file")
        return path
    return known_model(path, offline=flags.offline)


def _rank(ctx: typer.Context, parameter: str) -> int:
    """Return how directly the user set a parameter; 0 is the command line."""
    source = ctx.get_parameter_source(parameter)
    return _SOURCES.index(source.name) if source and source.name in _SOURCES else len(_SOURCES)


def _fetch(flags: ModelFlags) -> str:
    from scope_cpp.engine.hub import fetch

    with exit_at_once():
        path = fetch(
            flags.hf_repo or "",
            flags.hf_file,
            offline=flags.offline,
            notify=terminal.note,
        )
    return str(path)


def load_model(path: str, flags: PlacementFlags) -> Model:
    """Load the model where and how the flags say."""
    return Model.load(path, **placement(flags))


def placement(flags: PlacementFlags) -> dict[str, Any]:
    """Return where and how the model is loaded, as arguments of `Model.load`."""
    return {
        "n_gpu_layers": gpu_layers(flags.n_gpu_layers),
        "use_mmap": not flags.no_mmap,
        "use_mlock": flags.mlock,
        "split_mode": flags.split_mode,
        "main_gpu": flags.main_gpu,
        "tensor_split": _shares(flags.tensor_split),
    }


def settings(budget: BudgetFlags, policy: PolicyFlags, compute: ComputeFlags) -> Settings:
    """Return the engine's settings."""
    options = tuple(policy.option or ())
    values = {**asdict(budget), **asdict(policy), **asdict(compute), "options": options}
    del values["option"]
    return Settings(**given(values))


def sampling_values(flags: SamplingFlags) -> dict[str, Any]:
    """Return what the user set, checked, by the names of `SamplingParams`.

    Raises
    ------
    UsageError
        For a value out of range, or a bias or file that can't be read.
    """
    values = given(asdict(flags))
    values["logit_bias"] = dict(_bias(text) for text in flags.logit_bias or ())
    for name in ("grammar", "json_schema"):
        path, flag = values.pop(f"{name}_file", None), f"--{name.replace('_', '-')}"
        if path is not None:
            if name in values:
                raise UsageError(f"{flag} and {flag}-file: leave one out")
            values[name] = read_text(f"{flag}-file", path)
    SamplingParams(**values)
    return values


def sampling_params(model: Model, values: dict[str, Any], warn: Warn = ignore) -> SamplingParams:
    """Return the model's own defaults with the user's values over them."""
    return SamplingParams(**{**model_defaults(model, warn), **values})


def longest_output(flags: LengthFlags) -> int | None:
    """Return the most tokens to write, ``None`` for no limit.

    Raises
    ------
    UsageError
        For 0, or less than -1.
    """
    if flags.n_predict == -1:
        return None
    if flags.n_predict < 1:
        raise UsageError(f"-n {flags.n_predict}: give at least 1, or -1 for no limit")
    return flags.n_predict


def stop_strings(texts: list[str] | None, escape: bool) -> tuple[str, ...]:
    """Return the texts that end an output, their escape sequences read if `escape` is true."""
    return tuple(unescaped(text, "--stop") if escape else text for text in texts or ())


def gpu_layers(text: str | None) -> int | None:
    """Return how many layers to offload: -1 for all, ``None`` for llama.cpp's default.

    Raises
    ------
    UsageError
        For anything but a number, ``auto`` and ``all``.
    """
    if text in (None, "auto"):
        return None
    if text == "all":
        return -1
    try:
        return int(text or "")
    except ValueError:
        raise UsageError(f"-ngl {text}: give a number of layers, auto or all") from None


def _shares(text: str | None) -> list[float] | None:
    if text is None:
        return None
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise UsageError(f"--tensor-split {text}: give numbers, such as 3,1") from None


def _bias(text: str) -> tuple[int, float]:
    match = _BIAS.fullmatch(text.strip())
    try:
        if match is not None:
            return int(match[1]), float(match[2])
    except ValueError:
        pass
    raise UsageError(f"--logit-bias {text}: write it as TOKEN=BIAS, such as 15043=-2 or 15043+1")
