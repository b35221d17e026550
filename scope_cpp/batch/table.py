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
    reader = csv.reader(
        (line.data.decode(errors="surrogateescape") + "\n" for line in found), strict=True
    )
    try:
        header = _header(next(reader, []))
    except csv.Error as err:
        raise UsageError(f"the first line is no line of a CSV file: {err}") from None
    index = 0
    while True:
        number = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as err:
            line = Line(number, str(err).encode())
            yield invalid(index, line, f"is no line of a CSV file: {err}")
        else:
            if not cells:
                continue
            yield _cells(index, number, header, cells)
        index += 1


def _header(cells: list[str]) -> list[str]:
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
            f"unknown column {unknown[0]!r}; valid are {', '.join(sorted(valid))}: rename it, or "
            "leave it out"
        )
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise UsageError(f"two columns are called {twice[0]!r}: leave one out")
    return names


def _listed(names: list[str]) -> str:
    return ", ".join(repr(name[:40]) for name in names[:5]) or "no columns at all"


def _cells(index: int, number: int, header: list[str], cells: list[str]) -> Row:
    line = Line(number, "\0".join(cells).encode(errors="surrogateescape"))
    wrong = bad_line(index, line)
    if wrong is not None:
        return wrong
    if len(cells) != len(header):
        return invalid(index, line, f"has {len(cells)} cells, the header has {len(header)}")
    given = {name: cell for name, cell in zip(header, cells, strict=True) if cell != ""}
    row = Row(index, number, given.pop("id", None) or number, digest_of(given))
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
