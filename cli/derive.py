"""Values of the help that are written once, in the code that they belong to.

A text may hold references such as ``{engine.budget:DEFAULT_GENERATED_CELLS}``: a module of
scope_cpp and a name in it. They are looked up when the text is shown, so that declaring a flag
imports nothing. The modules hold plain Python: help must work where the native library does not.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

_REFERENCE = re.compile(r"\{([\w.]+):([\w.]+)(?:!(\w+))?\}")


def fill(text: str) -> str:
    """Return `text` with its references replaced by what they refer to."""
    return _REFERENCE.sub(lambda found: _shown(look_up(*found.group(1, 2)), found[3]), text)


def look_up(module: str, path: str) -> Any:
    """Return a value of scope_cpp; what is a function, or a registry's method, is called."""
    value: Any = import_module(f"scope_cpp.{module}")
    for name in path.split("."):
        value = getattr(value, name)
    return value() if callable(value) else value


def names(reference: str) -> list[str]:
    """Return the names that a reference of a text, without its braces, refers to."""
    module, _, path = reference.partition(":")
    return [str(name) for name in look_up(module, path)]


def _shown(value: Any, form: str | None) -> str:
    return _FORMS[form or "plain"](value)


def _plain(value: Any) -> str:
    if value is None or value is False:
        return ""
    if isinstance(value, (tuple, list, Mapping)):
        return ", ".join(map(_plain, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def _size(value: int) -> str:
    from scope_cpp.engine.budget import format_bytes

    return format_bytes(value).replace(" ", "")


def _by_test(values: Mapping[str, Any]) -> str:
    """Show what most names have, then those that have something else."""
    (usual, _), *_ = Counter(values.values()).most_common(1)
    others = [f"{name} {_plain(value)}" for name, value in values.items() if value != usual]
    return "; ".join([_plain(usual), *([", ".join(others)] if others else [])])


_FORMS: dict[str, Callable[[Any], str]] = {
    "plain": _plain,
    "bars": lambda value: "|".join(map(str, value)),
    "bytes": _size,
    "each": _by_test,
}
