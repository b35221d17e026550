"""Data files of tasks: JSON lines or one JSON list; a bad row is named and skipped."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from scope_cpp.errors import ScopeError, UsageError
from scope_cpp.eval.task import Item, Source, Task
from scope_cpp.texts import BOM, NotText, decode, require_mark

Row = dict[str, Any]
_MOST_WARNINGS = 5


class BadRow(ValueError):
    """A row that a task cannot use; the message says why."""


def data_path(task: Task, source: Source) -> Path:
    """Return the task's file.

    Raises
    ------
    UsageError
        None is given, or it is no file; the message says where to get it.
    """
    if source.data is None:
        raise UsageError(f"the task {task.name} reads a file: give it by --data. {task.where}")
    if source.data.is_dir():
        raise UsageError(f"{source.data} is a folder: give a file of it. {task.where}")
    if not source.data.is_file():
        raise UsageError(f"{source.data} does not exist. {task.where}")
    return source.data


def read_bytes(path: Path) -> bytes:
    """Return what is in a file, without a byte-order mark.

    Raises
    ------
    ScopeError
        It cannot be read, holds nothing, or has the byte-order mark of another encoding.
    """
    try:
        data = path.read_bytes()
        require_mark(data)
    except OSError as error:
        raise ScopeError(f"{path} cannot be read: {error.strerror}") from error
    except NotText as error:
        raise ScopeError(f"{path}: {error}") from None
    data = data.removeprefix(BOM)
    if not data.strip():
        raise ScopeError(f"{path} is empty: download it again")
    return data


def read_text(path: Path) -> str:
    """Return a UTF-8 text, its byte-order mark dropped, line ends as they are in Unix.

    Raises
    ------
    ScopeError
        It cannot be read, holds nothing, or is not UTF-8.
    """
    try:
        text = decode(read_bytes(path))
    except NotText as error:
        raise ScopeError(f"{path}: {error}") from None
    return text.replace("\r\n", "\n")


def rows(path: Path, where: str = "") -> Iterator[tuple[str, Row | BadRow]]:
    """Yield each row of a file with its place ("line 3"), or what is wrong with it.

    A file that starts with ``[`` is one JSON list, any other has a JSON object on each line.
    `where` says where to get a good file, for the error.
    """
    data = read_bytes(path)
    if data.lstrip()[:1] == b"[":
        try:
            entries = json.loads(data.decode())
        except (ValueError, RecursionError) as error:
            raise ScopeError(f"{path} is broken: {_reason(error)}. {where}".rstrip()) from None
        yield from ((f"entry {n}", _object(entry)) for n, entry in enumerate(entries, start=1))
        return
    for n, line in enumerate(data.split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            yield f"line {n}", _object(json.loads(line.decode()))
        except (ValueError, RecursionError) as error:
            yield f"line {n}", BadRow(_reason(error))


def _reason(error: Exception) -> str:
    if isinstance(error, UnicodeDecodeError):
        return "not UTF-8"
    if isinstance(error, json.JSONDecodeError):
        return f"no JSON ({error.msg}, column {error.colno})"
    return "nested too deeply" if isinstance(error, RecursionError) else "no JSON"


def _object(value: Any) -> Row | BadRow:
    return value if isinstance(value, dict) else BadRow("no JSON object")


class Skipped:
    """Notes which rows are skipped and why; of many only the first are named."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.n = 0
        self._named: list[tuple[str, BadRow]] = []

    def add(self, place: str, reason: BadRow) -> None:
        """Note a row."""
        self.n += 1
        if self.n <= _MOST_WARNINGS:
            self._named.append((place, reason))

    def tell(self, warn: Callable[[str], None]) -> None:
        """Warn of the rows, where others could be used."""
        for place, reason in self._named:
            warn(f"{self.path}, {place}: {reason}; skipped")
        if self.n > _MOST_WARNINGS:
            warn(f"{self.path}: {self.n - _MOST_WARNINGS} further rows skipped")

    def why(self) -> str:
        """Return the reason for an error, where none could be used."""
        if not self._named:
            return "it has none"
        place, reason = self._named[0]
        return f"{place}: {reason}"


def read_items(task: Task, source: Source, make: Callable[[str, Row], Item]) -> list[Item]:
    """Make an item of each row of the task's file, `Source.limit` at most.

    Parameters
    ----------
    task, source
        Whose file, and who is warned of the rows that are skipped.
    make
        Takes a default id, the same from run to run (the task's name and the row's number),
        and the row; raises `BadRow` for one that it cannot use.

    Raises
    ------
    UsageError
        There is no such file.
    ScopeError
        No row of it can be used.
    """
    path = data_path(task, source)
    skipped = Skipped(path)
    items: dict[str, Item] = {}
    for place, row in rows(path, task.where):
        if source.limit is not None and len(items) >= source.limit:
            break
        try:
            if isinstance(row, BadRow):
                raise row
            item = make(f"{task.name}-{place.split()[1]}", row)
            if item.id in items:
                raise BadRow(f"the id {item.id!r} is there already")
        except BadRow as reason:
            skipped.add(place, reason)
        else:
            items[item.id] = item
    if not items and source.limit != 0:
        why = skipped.why()
        raise ScopeError(f"{path}: no row that the task {task.name} can use ({why}). {task.where}")
    skipped.tell(source.warn)
    return list(items.values())


def text(row: Row, key: str) -> str:
    """Return a text of a row that is not empty."""
    value = _given(row, key)
    if not isinstance(value, str) or not value.strip():
        raise BadRow(f"{key!r} must be a text that is not empty")
    return value


def listed(row: Row, key: str, kind: type) -> list[Any]:
    """Return a list of a row: not empty, all of one type."""
    value = _given(row, key)
    if not isinstance(value, list) or not value:
        raise BadRow(f"{key!r} must be a list that is not empty")
    if not all(type(entry) is kind for entry in value):
        raise BadRow(f"{key!r} must hold {'texts' if kind is str else 'whole numbers'} only")
    return value


def whole(row: Row, key: str) -> int:
    """Return a whole number of a row."""
    value = _given(row, key)
    if type(value) is not int:
        raise BadRow(f"{key!r} must be a whole number")
    return value


def _given(row: Row, key: str) -> Any:
    if key not in row:
        names = ", ".join(map(repr, list(row)[:8]))
        raise BadRow(f"no field {key!r} (it has {names or 'none'})")
    return row[key]
