"""The numbers of a figure as rows, for the CSV file beside the picture and for JSON."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass

Value = str | int | float | None


@dataclass(frozen=True)
class Table:
    """Rows of equal length under named columns; ``None`` is a number that is not known."""

    columns: tuple[str, ...]
    rows: tuple[tuple[Value, ...], ...]

    def __post_init__(self) -> None:
        """Refuse a row that has not a value for each column."""
        if any(len(row) != len(self.columns) for row in self.rows):
            raise ValueError(f"each row has {len(self.columns)} values: {self.columns}")

    def csv(self) -> str:
        """Return it as CSV; floats have six significant digits."""
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(self.columns)
        writer.writerows([_shown(value) for value in row] for row in self.rows)
        return out.getvalue()

    def records(self) -> list[dict[str, Value]]:
        """Return a dict for each row."""
        return [dict(zip(self.columns, row, strict=True)) for row in self.rows]


def _shown(value: Value) -> Value:
    return f"{value:.6g}" if isinstance(value, float) else value
