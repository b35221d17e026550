"""The settings in force as a table: one setting a line, for ``-v`` and for ``/show settings``."""

from __future__ import annotations

from collections.abc import Mapping

from scope_cpp.printable import printable

from .terminal import broken, table

WIDTH = 80


def settings_table(values: Mapping[str, object], width: int = WIDTH) -> str:
    """Return a table of settings.

    Parameters
    ----------
    values
        As `scope_cpp.engine.in_force` has them, and others.
    width
        Of the lines, `WIDTH` at most.
    """
    shown = dict(values) | {"budget": f"{values['budget']} cells"}
    if shown["flash_attn"] == "auto":
        shown["flash_attn"] = "auto, which llama.cpp resolved"
    for name in {"ctx_size", "n_predict"} & shown.keys():
        shown[name] = shown[name] or "no limit"
    rows = ((name.replace("_", "-"), value(item)) for name, item in shown.items())
    return broken(table(rows).rstrip("\n"), min(width, WIDTH))


def value(item: object) -> str:
    """Return a setting's value as a text."""
    if item is None:
        return "none"
    if isinstance(item, (list, tuple)):
        return " ".join(map(repr, item)) or "none"
    if isinstance(item, dict):
        return " ".join(f"{key}={_number(number)}" for key, number in item.items()) or "none"
    return printable(str(item))


def _number(item: object) -> str:
    return f"{item:g}" if isinstance(item, float) else "auto" if item is None else str(item)
