"""What a user asks of a batch, and which files that may be."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from scope_cpp.engine.budget import OF_NO_LENGTH, Budget, parse_budget
from scope_cpp.errors import ScopeError, UsageError
from scope_cpp.files import check_named

# Rows at once, if nothing is said and as many fit
MOST_ROWS = 8
# Of the run; see `scope_cpp.batch.requests.row_seed`
DEFAULT_SEED = 0
# Endings that promise what no output is
_TABLES = (".csv", ".tsv")


@dataclass(frozen=True)
class Asked:
    """What a user asks of a batch, besides what its rows get.

    Attributes
    ----------
    source, output
        Files; ``None`` is a stream.
    form
        See `find_format`.
    limit
        Most rows.
    shuffle
        Take the rows in an order drawn with the run's seed.
    ordered
        Write records in input order.
    fail_fast
        Stop after the first error.
    force
        Go on with an output of another configuration or other rows.
    n_parallel, cells, prefix_cells
        See `scope_cpp.batch.sizes.layout`.
    """

    source: Path | None
    output: Path | None
    form: str | None = None
    limit: int | None = None
    shuffle: bool = False
    ordered: bool = False
    fail_fast: bool = False
    force: bool = False
    n_parallel: int | None = None
    cells: str | None = None
    prefix_cells: str | None = None


def asked_cells(cells: str | None) -> Budget:
    """Return what ``--cells`` asks for. Raises UsageError if it is no number of cells."""
    return parse_budget(cells, "--cells", OF_NO_LENGTH)


def asked_prefix(cells: str | None) -> Budget:
    """Return what ``--prefix-cells`` asks for. Raises UsageError if it is no number of cells."""
    return parse_budget(cells, "--prefix-cells", OF_NO_LENGTH, or_none=True)


def check_source(source: Path | None) -> None:
    """Refuse an input that is no file. Raises UsageError with the reason."""
    if source is not None and not source.exists():
        raise UsageError(f"-i {source}: there is no such file")
    if source is not None and source.is_dir():
        raise UsageError(f"-i {source} is a folder: give a file")


def check(asked: Asked) -> None:
    """Refuse files that can't be right, and sizes that are none.

    Raises
    ------
    UsageError
        With the reason.
    """
    asked_cells(asked.cells), asked_prefix(asked.prefix_cells)
    source, output = asked.source, asked.output
    check_source(source)
    if output is not None:
        check_named("-o", output)
        if output.suffix.lower() in _TABLES:
            raise UsageError(
                f"-o {output}: records are written as JSON lines, not as a table: give "
                f"-o {output.with_suffix('.jsonl')}"
            )
    if source is not None and output is not None and output.exists() and source.samefile(output):
        raise UsageError(f"-i and -o are both {output}: write to another file")
    if asked.shuffle and (source is None or not source.is_file()):
        raise UsageError("--shuffle needs all rows at once: give a file with -i, not a stream")


def writer(path: Path, opened: ExitStack) -> Callable[[str], None]:
    """Return what writes lines to a device or a pipe with a name."""
    try:
        descriptor = os.open(path, os.O_WRONLY)
    except OSError as err:
        raise ScopeError(f"-o {path}: {err.strerror or err}") from None
    opened.callback(os.close, descriptor)

    def write(line: str) -> None:
        left = line.encode("ascii")
        try:
            while left:
                left = left[os.write(descriptor, left) :]
        except OSError as err:
            raise ScopeError(
                f"{path} cannot be written: {err.strerror or err}; it can't be gone on with: give "
                "a file with -o for that"
            ) from None

    return write


def name(path: Path | None) -> str:
    """What messages and summaries call a file, or a stream."""
    return "-" if path is None else str(path)
