"""Rows of a CSV file, whose first line names the columns."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from scope_cpp.batch.input_lines import MOST_LINE, Line
from scope_cpp.batch.openai import read_body
from scope_cpp.batch.parse import bad_line, filled, invalid
from scope_cpp.batch.rows import Row, digest_of
from scope_cpp.engine.parallel.options import option_names
from scope_cpp.errors import UsageError
from scope_cpp.near import valid_are
from scope_cpp.texts import NotText, require_utf8

# cells that are texts as they stand; all others are JSON
_PLAIN = {"id", "prompt", "policy", "prefill", "granularity", "grammar", "json_schema", "budget"}
_PLAIN_OR_JSON = {"stop", "options"}


def csv_rows(found: Iterable[Line]) -> Iterator[Row]:
    """Yield the rows of a CSV file; a cell that is empty is not given.

    Raises
    ------
    UsageError
        For a header without prompts, or with an unknown column.
    """
    csv.field_size_limit(MOST_LINE)
    feed = _Feed(found)
    reader = csv.reader(feed, strict=True)
    try:
        header = _header(next(reader, []))
    except csv.Error as err:
        raise UsageError(f"the first line of the CSV file {_why(err)}") from None
    index = 0
    while True:
        number, feed.too_long = reader.line_num + 1, None
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as err:
            why = _why(err)
            line = Line(number, why.encode())
            yield invalid(index, line, why)
        else:
            if not cells and feed.too_long is None:
                continue
            yield _cells(index, feed.too_long or _joined(number, cells), header, cells)
        index += 1


class _Feed:
    """Lines as the csv module takes them; one that is too long is noted, and empty."""

    def __init__(self, found: Iterable[Line]) -> None:
        self._found = iter(found)
        self.too_long: Line | None = None

    def __iter__(self) -> _Feed:
        return self

    def __next__(self) -> str:
        line = next(self._found)
        if line.too_long:
            self.too_long = line
            return "\n"
        return line.data.decode(errors="surrogateescape") + "\n"


def _joined(number: int, cells: list[str]) -> Line:
    return Line(number, "\n".join(cells).encode(errors="surrogateescape"))


# what the csv module says, and what a user can do about it
_REASONS = {
    "unexpected end of data": 'has a quote (") that is never closed: close it, or write quotes '
    "within a cell twice",
    "expected after": 'has text behind a closing quote ("): write quotes within a cell twice',
    "new-line character": "has a carriage return that ends no line: save the file with the line "
    "ends of Unix or Windows",
    "field larger": f"has a cell of more than {MOST_LINE} characters: shorten it",
    "NUL": "has a NUL byte, as in UTF-16 or in a binary file: save it as UTF-8",
}


def _why(err: csv.Error) -> str:
    for sign, reason in _REASONS.items():
        if sign in str(err):
            return reason
    return f"is no line of a CSV file: {err}"


def _header(cells: list[str]) -> list[str]:
    try:
        require_utf8(_joined(1, cells).data)
    except NotText as err:
        raise UsageError(f"the first line of the CSV file can't be read: {err}") from None
    names = [cell.strip() for cell in cells]
    valid = {"id", "prompt", "messages", *option_names()}
    if not {"prompt", "messages"} & set(names):
        raise UsageError(
            f"the first line of the CSV file has no column 'prompt', but {_listed(names)}: name "
            "the columns there, with commas between"
        )
    unknown = [name for name in names if name not in valid]
    if unknown:
        raise UsageError(
            f"unknown column {unknown[0]!r}{valid_are(unknown[0], sorted(valid))}: "
            "rename it, or leave it out"
        )
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise UsageError(f"two columns are called {twice[0]!r}: leave one out")
    return names


def _listed(names: list[str]) -> str:
    return ", ".join(repr(name[:40]) for name in names[:5]) or "no columns at all"


def _cells(index: int, line: Line, header: list[str], cells: list[str]) -> Row:
    wrong = bad_line(index, line)
    if wrong is not None:
        return wrong
    if len(cells) != len(header):
        return invalid(index, line, f"has {len(cells)} cells, the header has {len(header)}")
    given = {name: cell for name, cell in zip(header, cells, strict=True) if cell != ""}
    row = Row(index, line.number, given.pop("id", None) or line.number, digest_of(given))
    return filled(row, lambda: (read_body(_decoded(given)), False))


def _decoded(cells: Mapping[str, str]) -> dict[str, Any]:
    return {name: _value(name, cell) for name, cell in cells.items()}


def _value(name: str, cell: str) -> Any:
    if name in _PLAIN or (name in _PLAIN_OR_JSON and not cell.startswith(("[", "{"))):
        return cell
    lower = cell.strip().lower()
    try:
        return json.loads(lower if lower in ("true", "false") else cell)
    except ValueError:
        return cell  # for the message that it is no number
