"""Files of rows: JSON lines, OpenAI's batch lines, CSV, plain text."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from scope_cpp.batch.input_lines import Line, lines
from scope_cpp.batch.parse import jsonl, openai, text
from scope_cpp.batch.rows import Row, unique
from scope_cpp.batch.table import csv_rows
from scope_cpp.errors import UsageError
from scope_cpp.near import valid_are

JSONL, OPENAI, CSV, TEXT = "jsonl", "openai", "csv", "text"
FORMATS = (JSONL, OPENAI, CSV, TEXT)

_ENDINGS = {
    ".jsonl": JSONL, ".ndjson": JSONL, ".csv": CSV, ".txt": TEXT, ".text": TEXT,
}  # fmt: skip


def find_format(path: Path | None, name: str | None = None) -> str:
    """Return the format of a file, by its ending; JSON lines are OpenAI's if the first one is.

    Parameters
    ----------
    path
        ``None``: a stream, which is not looked into: JSON lines.
    name
        What the user says it is.

    Raises
    ------
    UsageError
        For an unknown name or ending, or a file that can't be read.
    """
    if name is not None:
        if name not in FORMATS:
            raise UsageError(f"--format {name}{valid_are(name, FORMATS)}")
        return name
    if path is None:
        return JSONL
    found = _ENDINGS.get(path.suffix.lower())
    if found is None:
        raise UsageError(
            f"{path}: its ending tells no format; give --format {', '.join(FORMATS[:-1])} or "
            f"{FORMATS[-1]}"
        )
    if found == JSONL and path.is_file():
        with open_input(path) as file:
            first = next((line.data for line in lines(file) if line.data.strip()), b"")
        return OPENAI if b'"custom_id"' in first else JSONL
    return found


def open_input(path: Path) -> BinaryIO:
    """Open a file of rows.

    Raises
    ------
    UsageError
        If it can't be read.
    """
    try:
        return path.open("rb")
    except OSError as err:
        raise UsageError(f"-i {path}: {err.strerror or err}") from None


def read_rows(file: BinaryIO, form: str) -> Iterator[Row]:
    """Yield the rows of a file, none before the line that follows it must be read.

    What is wrong with one line is that row's error.

    Raises
    ------
    UsageError
        For a CSV file whose header does not do.
    """
    return unique(_READERS[form](lines(file)))


_READERS: dict[str, Callable[[Iterable[Line]], Iterator[Row]]] = {
    JSONL: jsonl,
    OPENAI: openai,
    CSV: csv_rows,
    TEXT: text,
}
