"""Where records go: a file that knows which rows it has, or a stream; in input order if wanted."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

from scope_cpp.batch.config import Config, config_path, differences, read_config, write_config
from scope_cpp.batch.line_file import LineFile
from scope_cpp.batch.record import Record
from scope_cpp.batch.rows import Row
from scope_cpp.batch.shapes import Seen, Shape, line_of
from scope_cpp.errors import ScopeError, UsageError

Note = Callable[[str], None]


class Sink(Protocol):
    """Takes records; each of them once."""

    def has(self, row: Row) -> bool:
        """Whether the row's record is there.

        Raises
        ------
        UsageError
            If the record is of a row with this id, or in this line, that asked something else.
        """

    def skip(self, row: Row) -> bool:
        """Pass over a row whose record is there; return whether that is an error."""

    def put(self, record: Record) -> None:
        """Write a record; it is safe when this returns, if that can be had.

        Raises
        ------
        ScopeError, OSError
            If it can't be written.
        """

    def finish(self) -> None:
        """No more records come, because all rows are done."""


class StreamSink:
    """Lines to whatever takes text; nothing is known of an earlier run.

    Parameters
    ----------
    write
        Takes a whole line.
    shape
        Of the lines.
    """

    def __init__(self, write: Callable[[str], None], shape: Shape) -> None:
        self._write, self.shape = write, shape
        self.kept: dict[str, bytes] = {}

    def has(self, row: Row) -> bool:
        """See `Sink`."""
        return False

    def skip(self, row: Row) -> bool:
        """See `Sink`."""
        return False

    def put(self, record: Record) -> None:
        """See `Sink`."""
        self.put_line(line_of(self.shape, record))

    def finish(self) -> None:
        """See `Sink`."""

    def put_line(self, line: bytes) -> None:
        """Write a record's line."""
        self._write(line.decode("ascii"))

    def keep_line(self, line: bytes) -> None:
        """A line is early; there is no place where it would be safe."""

    def forget_kept(self) -> None:
        """See `FileSink`."""


class FileSink:
    """Records at the end of a file, with what is there already; a context manager.

    A record that is early, because the file is to be in input order, is kept in a file beside it.

    Parameters
    ----------
    path
        Made if need be; its configuration lies beside it, see `config_path`.
    shape
        Of its lines.
    force
        Go on with a file of another configuration, of other rows, or without one.
    note
        Takes a line about a half-written record.

    Attributes
    ----------
    n_before
        Records that were there.
    kept
        Lines that are early, of an earlier run, by their rows' keys.

    Raises
    ------
    ScopeError
        If another process writes to it, it is damaged, or can't be written.
    """

    def __init__(self, path: Path, shape: Shape, *, force: bool, note: Note) -> None:
        self.path, self.shape, self._force, self._note = path, shape, force, note
        self.kept: dict[str, bytes] = {}
        self.n_before = 0
        self._seen: dict[str, Seen] = {}
        self._file = LineFile(path, named=True)
        self._early: LineFile | None = None

    def __enter__(self) -> FileSink:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        if self._early is not None:
            self._early.close()

    def open(self, config: Config) -> None:
        """Check that `config` goes with what is there, note it, and read what is there.

        Raises
        ------
        UsageError
            If the records there are of another configuration.
        ScopeError
            If one of them is damaged.
        """
        beside, early = config_path(self.path), early_path(self.path)
        fresh = self._file.empty and not early.is_file()
        before = None if fresh else read_config(beside)
        if not fresh and not self._force:
            self._compare(before, config)
        for seen, _ in self._read(self._file):
            if seen.key in self._seen:
                raise ScopeError(f"{self.path} has two records of {seen.key}: remove one")
            self._seen[seen.key] = seen
        write_config(beside, {**config, "started": (before or config)["started"]})
        n_cut = self._file.cut()
        if n_cut:
            self._note(f"{self.path}: cut off a half-written record of {n_cut} bytes")
        if early.is_file():
            self._open_early(early, keep=bool(config["options"]["ordered"]))
        self.n_before = len(self._seen)

    def _open_early(self, path: Path, keep: bool) -> None:
        """Read the records that were early; write them if they need not wait any longer."""
        self._early = LineFile(path)
        for seen, line in self._read(self._early):
            if seen.key not in self._seen:
                self._seen[seen.key] = seen
                self.kept[seen.key] = line + b"\n"
        self._early.cut()
        if not keep:
            for line in self.kept.values():
                self.put_line(line)
            self.kept.clear()
            self.forget_kept()

    def _compare(self, before: Config | None, config: Config) -> None:
        if before is None:
            raise UsageError(
                f"{self.path} is there, but not {config_path(self.path).name}, which tells what it "
                "is of: name another file with -o, or --force to write behind what is there"
            )
        found = differences(before, config)
        if found:
            raise UsageError(
                f"{self.path} has results of another configuration ({'; '.join(found)}): repeat "
                "that one, name another file with -o, or --force to mix them"
            )

    def _read(self, file: LineFile) -> Iterator[tuple[Seen, bytes]]:
        for number, line in enumerate(file.read(), start=1):
            try:
                seen = self.shape.seen(json.loads(line))
            except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as err:
                raise ScopeError(
                    f"{file.path} line {number} is no record ({err}): remove the line, its row "
                    "then runs again"
                ) from None
            yield seen, line

    def keys(self) -> set[str]:
        """Keys of the rows whose records were there."""
        return set(self._seen)

    def has(self, row: Row) -> bool:
        """See `Sink`."""
        seen = self._seen.get(row.key)
        if seen is None:
            return False
        if seen.digest != row.digest and not self._force:
            raise UsageError(
                f"{row.name} has changed since its record was written to {self.path}: put the row "
                "back, give it another id, remove its record to run it again, or --force to keep "
                "the record"
            )
        return True

    def skip(self, row: Row) -> bool:
        """See `Sink`."""
        return self._seen[row.key].failed

    def put(self, record: Record) -> None:
        """See `Sink`."""
        self.put_line(line_of(self.shape, record))

    def finish(self) -> None:
        """See `Sink`."""

    def put_line(self, line: bytes) -> None:
        """Write a record's line."""
        self._file.append(line)

    def keep_line(self, line: bytes) -> None:
        """Make a line safe that is early."""
        if self._early is None:
            self._early = LineFile(early_path(self.path))
        self._early.append(line)

    def forget_kept(self) -> None:
        """No line is early: all that were are written."""
        if self._early is not None:
            self._early.remove()
            self._early.close()
            self._early = None


def early_path(output: Path) -> Path:
    """Path of the records that wait for their turn."""
    return output.with_name(output.name + ".early")
