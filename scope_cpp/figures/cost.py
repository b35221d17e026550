"""Memory and speed of each method, from a run of ``scope eval`` or a report of ``scope bench``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from scope_cpp.bench.plot import curves
from scope_cpp.errors import UsageError
from scope_cpp.figures import style
from scope_cpp.figures.figure import Figure
from scope_cpp.figures.marks import Marks
from scope_cpp.figures.runs import Record, numbered, open_run
from scope_cpp.figures.table import Table
from scope_cpp.reference.shipped import model_label
from scope_cpp.texts import NotText, decode

MIB = 2**20


@dataclass(frozen=True)
class Method:
    """What one method takes.

    Attributes
    ----------
    name
    number
        What it looks like, 0 for the full cache.
    cells
        Most cells in use, by llama.cpp's count.
    kv_mib
        Memory of the KV cache, MiB.
    speed, slowest, fastest
        Tokens generated per second, and the range of the repetitions where there are some.
    """

    name: str
    number: int
    cells: int
    kv_mib: float
    speed: float
    slowest: float | None = None
    fastest: float | None = None


@dataclass(frozen=True)
class Cost(Figure):
    """Two bars for each method."""

    run: str
    methods: tuple[Method, ...]

    name: ClassVar[str] = "cost"

    @property
    def title(self) -> str:
        """Says what is drawn."""
        return "Memory and speed of each method"

    @property
    def size(self) -> tuple[float, float]:
        """A line for each method."""
        return 8.0, 1.5 + 0.36 * len(self.methods)

    def table(self) -> Table:
        """A line for each method."""
        columns = (
            "row", "cells", "kv_mib", "tokens_per_second", "tokens_per_second_min",
            "tokens_per_second_max",
        )  # fmt: skip
        return Table(
            columns,
            tuple((m.name, m.cells, m.kv_mib, m.speed, m.slowest, m.fastest) for m in self.methods),
        )

    def draw(self, canvas: Any) -> None:
        """Draw memory at the left, speed at the right, numbers at the bars' ends."""
        memory, speed = canvas.subplots(1, 2, sharey=True)
        names = [method.name for method in self.methods]
        kv = [
            (method.kv_mib, f"{method.kv_mib:.2f}, {method.cells} cells") for method in self.methods
        ]
        self._bars(memory, kv, 0.55)
        self._bars(speed, [(method.speed, _speed(method)) for method in self.methods], 0.5)
        memory.set_yticks(range(len(names)), names)
        memory.invert_yaxis()
        memory.set_xlabel("KV cache that llama.cpp allocated (MiB)")
        ranged = any(method.slowest is not None for method in self.methods)
        speed.set_xlabel("generated (tokens/s" + (", min–max)" if ranged else ")"))

    def _bars(self, axes: Any, values: Sequence[tuple[float, str]], margin: float) -> None:
        """Draw bars with a text at the end of each."""
        rows = range(len(values))
        colours = [style.look(method.number).colour for method in self.methods]
        axes.barh(rows, [value for value, _ in values], height=0.65, color=colours)
        for row, (value, told) in zip(rows, values, strict=True):
            axes.annotate(
                told, (value, row), (4, 0), textcoords="offset points", va="center", fontsize=9
            )
        axes.margins(x=margin, y=0.02)
        axes.tick_params(axis="y", length=0)

    def text(self, width: int, marks: Marks) -> str:
        """Return two bars for each method beside each other."""
        name_width = max(len("method"), *(len(method.name) for method in self.methods))
        room = max(6, (width - name_width - 25) // 2)
        memory = max(method.kv_mib for method in self.methods)
        speed = max(method.speed for method in self.methods)
        lines = [f"{'method':<{name_width}}  {'KV cache, MiB':<{room + 9}}  tokens/s"]
        for method in self.methods:
            left = marks.measure(method.kv_mib / (memory or 1), room)
            right = marks.measure(method.speed / (speed or 1), room)
            lines.append(
                f"{method.name:<{name_width}}  {left} {method.kv_mib:>8.2f}  "
                f"{right} {method.speed:>8.1f}"
            )
        return "\n".join(lines)


def cost(path: str) -> Cost:
    """Take memory and speed from a run's folder, or from a file of ``scope bench -o json``.

    Raises
    ------
    UsageError
        If it is neither, or has no numbers.
    ScopeError
        If it is damaged.
    """
    return _of_bench(Path(path)) if Path(path).is_file() else _of_run(path)


def _of_run(path: str) -> Cost:
    run = open_run(path)
    numbers = numbered(run.records)
    methods = [
        Method(
            record["row"],
            numbers[record["series"]],
            record["cells_peak"],
            record["kv_bytes"] / MIB,
            record["tokens_per_second"],
        )
        for record in run.records
        if record["kv_bytes"] is not None and record["tokens_per_second"] is not None
    ]
    if not methods:
        raise UsageError(f"{path}: its rows have no speed, generate something")
    return Cost(run.describe(), tuple(methods))


def _of_bench(path: Path) -> Cost:
    report = _read(path)
    found = curves([row for row in report["rows"] if row["test_kind"] == "gen"])
    if not found:
        raise UsageError(f"{path}: no row of --test gen has numbers")
    depth = max(points[-1]["depth"] for points in found.values())
    deepest = [points[-1] for points in found.values() if points[-1]["depth"] == depth]
    labels = list(dict.fromkeys(r["policy"] for r in deepest if r["role"] != "full"))
    methods = tuple(
        _measured(r, 0 if r["role"] == "full" else 1 + labels.index(r["policy"])) for r in deepest
    )
    model = model_label(Path(report["compute"]["model"]))
    return Cost(f"{model}, scope bench at position {depth}", methods)


def _measured(record: Record, number: int) -> Method:
    cells = [] if record["role"] == "full" else [f"{record['budget']} cells"]
    settings = [record[key] for key in ("prefill", "granularity") if record[key] is not None]
    chosen = [value for value in settings if value not in ("full", "head")]
    return Method(
        ", ".join([record["policy"], *cells, *chosen, f"-fa {record['fa']}"]),
        number,
        record["cells_used"],
        record["kv_mib"],
        record["tokens_per_second"],
        *_range(record),
    )


def _speed(method: Method) -> str:
    if method.slowest is None or method.fastest is None:
        return _short(method.speed)
    return f"{_short(method.speed)} ({_short(method.slowest)}–{_short(method.fastest)})"


def _short(value: float) -> str:
    return f"{value:.1f}" if value < 100 else f"{value:.0f}"


def _range(record: Record) -> Sequence[float]:
    """Speeds of the slowest and the fastest repetition."""
    return [1000 / record["ms_max"], 1000 / record["ms_min"]]


def _read(path: Path) -> Record:
    try:
        report = json.loads(decode(path.read_bytes()))
    except OSError as err:
        raise UsageError(f"{path}: {err.strerror}") from None
    except NotText as err:
        raise UsageError(f"{path}: {err}") from None
    except (ValueError, RecursionError) as err:
        raise UsageError(
            f"{path} is no JSON ({err}): give a file of 'scope bench -o json'"
        ) from None
    if not isinstance(report, dict) or not {"rows", "compute"} <= set(report):
        raise UsageError(f"{path} is no report of 'scope bench -o json', nor a run's folder")
    return report
