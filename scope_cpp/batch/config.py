"""What the results of a batch depend on; it lies beside the output, so that no two are mixed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from scope_cpp import __version__
from scope_cpp.batch.requests import Defaults
from scope_cpp.engine.doctor import native_facts
from scope_cpp.engine.model import Model
from scope_cpp.engine.sampling import SamplingParams, model_defaults
from scope_cpp.engine.session_model import difference, identify
from scope_cpp.engine.settings import DEFAULT_POLICY, Settings
from scope_cpp.errors import ScopeError
from scope_cpp.files import FORMAT, cannot_write, dump, read_json, replace

Config = dict[str, Any]

_SETTINGS = ("prefill", "granularity", "budget", "ctx_size", "type_k", "type_v", "flash_attn")
_LONG = 60  # characters of a value that a message shows


def config_path(output: Path) -> Path:
    """Path of the configuration that belongs to an output."""
    return output.with_name(output.name + ".run.json")


def config_of(
    model: Model,
    defaults: Defaults,
    *,
    shape: str,
    ordered: bool,
    source: Mapping[str, Any] | None,
    command: Sequence[str],
) -> Config:
    """Return the configuration of a run.

    Parameters
    ----------
    model, defaults
    shape
        Name of the output's `Shape`.
    ordered
        Whether the output is in input order.
    source
        `source_facts`, or ``None`` for a stream: what is only noted.
    command
        Noted as well.
    """
    native = native_facts()
    options = {
        **_options_of(defaults.settings),
        **asdict(SamplingParams(**{**model_defaults(model), **defaults.sampling})),
        "seed": defaults.seed,
        "n_predict": defaults.n_predict,
        "stop": defaults.stop,
        "chat": defaults.chat,
        "parse_special": defaults.parse_special,
        "system_prompt": defaults.system_prompt,
        "chat_template": defaults.template,
        "output": shape,
        "ordered": ordered,
    }
    return {
        "format": FORMAT,
        "model": identify(model),
        "options": json.loads(json.dumps(options)),
        "input": source,
        "versions": {"scope_cpp": __version__, "llama_cpp": native["commit"], "abi": native["abi"]},
        "command": list(command),
        "started": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }


def _options_of(settings: Settings) -> dict[str, Any]:
    """Settings that change results; threads and batches do not, but for rounding."""
    values: dict[str, Any] = {name: getattr(settings, name) for name in _SETTINGS}
    values["policy"] = settings.policy or DEFAULT_POLICY
    values["option"] = list(settings.options)
    return values


def source_facts(path: Path, form: str) -> dict[str, Any]:
    """Return name, size and digest of an input file."""
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while part := file.read(2**20):
            digest.update(part)
        size = file.tell()
    return {"path": str(path), "format": form, "bytes": size, "sha256": digest.hexdigest()}


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return in what two configurations differ, by name; nothing if their results can be mixed.

    The name of the model's file does not matter, nor do the input, versions and the command.
    """
    found = []
    other = difference(dict(before["model"]), dict(now["model"]))
    if other is not None:
        found.append(f"the model was {other}")
    old, new = before["options"], now["options"]
    for name in sorted({*old, *new}):
        if old.get(name) != new.get(name):
            found.append(f"{name} {_shown(new.get(name))} instead of {_shown(old.get(name))}")
    return found


def read_config(path: Path) -> Config | None:
    """Return the configuration at `path`; ``None`` if there is none.

    Raises
    ------
    ScopeError
        If it is damaged, or was written by a newer version.
    """
    if not path.is_file():
        return None
    config = read_json(path)
    if not all(isinstance(config.get(key), dict) for key in ("model", "options")):
        raise ScopeError(f"{path} is damaged (no model or options): remove it and use --force")
    return config


def write_config(path: Path, config: Mapping[str, Any]) -> None:
    """Replace the configuration at `path`: at any moment the old or the new one is there, whole.

    Raises
    ------
    ScopeError
        If it can't be written.
    """
    try:
        replace(path, dump(config))
    except OSError as err:
        cannot_write(path, err)


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _LONG else f"{text[: _LONG - 3]}..."
