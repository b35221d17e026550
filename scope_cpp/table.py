"""Columns of a report, and a table of them in Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from string import Formatter
from typing import Any

from scope_cpp.printable import one_line


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes
    ----------
    title
    form
        What of a record it shows, as a format string.
    always
        Shown even if no row of the table has a value.
    instead
        Key whose text, if there is some, takes the place of the value.
    """

    title: str
    form: str
    always: bool = True
    instead: str = ""

    @property
    def key(self) -> str:
        """The first value that it shows."""
        return str(next(name for _, name, _, _ in Formatter().parse(self.form) if name))

    def cell(self, record: Mapping[str, Any]) -> str:
        """Show a record's values; nothing if it has none."""
        text = "" if record[self.key] is None else self.form.format(**record)
        if self.instead and record[self.instead]:
            text = record[self.instead]
        return one_line(" ".join(text.split()))


def shown(columns: Sequence[Column], records: Sequence[Mapping[str, Any]]) -> list[Column]:
    """Return the columns that a table of these records has."""
    return [
        column
        for column in columns
        if column.always or any(record[column.key] is not None for record in records)
    ]


def markdown(columns: Sequence[Column], records: Sequence[Mapping[str, Any]]) -> str:
    """Return a table in Markdown, without a newline at its end."""
    found = shown(columns, records)
    rows = [[column.title for column in found], ["---"] * len(found)]
    rows += [[column.cell(record).replace("|", "\\|") for column in found] for record in records]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def plain(columns: Sequence[Column], records: Sequence[Mapping[str, Any]]) -> str:
    """Return a table for a terminal: the first column to the left, numbers to the right."""
    found = shown(columns, records)
    rows = [[column.title for column in found]]
    rows += [[column.cell(record) for column in found] for record in records]
    widths = [max(map(len, cells)) for cells in zip(*rows, strict=True)]
    return "".join(
        "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip() + "\n"
        for row in rows
    )
