"""Speed and memory against position, as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from scope_cpp.errors import ScopeError, UsageError
from scope_cpp.extras import install
from scope_cpp.files import behind_links, check_named, replacing

PANELS = (
    ("tokens_per_second", "tokens per second"),
    ("kv_mib", "KV cache, MiB"),
)

Record = dict[str, Any]


def check(path: str) -> None:
    """Refuse a picture that could not be written, before hours are spent on it.

    Raises
    ------
    UsageError
        If the folder or the format is none.
    ScopeError
        If matplotlib is missing.
    """
    _figure_class()
    formats = import_module("matplotlib.backend_bases").FigureCanvasBase.get_supported_filetypes()
    if _form(path) not in formats:
        raise UsageError(f"--plot {path}: name it *.png, or one of {', '.join(sorted(formats))}")
    check_named("--plot", path)


def save(records: Sequence[Record], path: str) -> None:
    """Draw a line for each policy and attention path over the depths that were measured.

    Raises
    ------
    ScopeError
        If no row has a depth and numbers, or matplotlib is missing.
    """
    lines = curves(records)
    if not lines:
        raise ScopeError(f"--plot {path}: no row of test gen or memory has numbers")
    figure = _figure_class()(figsize=(11, 4.5), layout="constrained")
    for axes, (key, title) in zip(figure.subplots(1, 2), PANELS, strict=True):
        for name, points in lines.items():
            style = "--" if name.endswith("off") else "-"
            axes.plot(
                [point["depth"] for point in points],
                [point[key] for point in points],
                style,
                marker="o",
                label=name,
            )
        axes.set(xlabel="position", ylabel=title, ylim=(0, None))
        axes.grid(alpha=0.3)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, fontsize="small")
    try:
        with replacing(behind_links(path)) as file:
            figure.savefig(file, dpi=150, format=_form(path))
    except OSError as err:
        raise ScopeError(f"--plot {path} cannot be written: {err.strerror or err}") from None


def curves(records: Sequence[Record]) -> dict[str, list[Record]]:
    """Return the measured rows of each line, by depth."""
    found: dict[str, list[Record]] = {}
    for record in records:
        drawn = record["test_kind"] in ("gen", "memory") and record["role"] in ("full", "bounded")
        if drawn and record["ms"] is not None:
            found.setdefault(_name(record), []).append(record)
    return {name: sorted(points, key=lambda p: p["depth"]) for name, points in found.items()}


def _form(path: str) -> str:
    return Path(path).suffix.lstrip(".").lower()


def _name(record: Record) -> str:
    parts = [record["policy"]]
    if record["role"] == "bounded":
        parts += [f"{record['budget']} cells"]
        parts += [record[key] for key in ("prefill", "granularity") if record[key] is not None]
    return ", ".join([*parts, f"flash attention {record['fa']}"])


def _figure_class() -> Any:
    try:
        return import_module("matplotlib.figure").Figure
    except ImportError:
        raise ScopeError(f"--plot needs matplotlib: {install('plot')}") from None
