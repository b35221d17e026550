"""The folder of a run: what was asked, what came of each sample, and what it sums up to.

=====================  ==========================================================================
``config.json``        model, task, samples, rows, seed, versions, command; rows may be added
``predictions.jsonl``  a `Prediction` a line, written to the disk when it is finished
``metrics.json``       `scope_cpp.eval.metrics` of the predictions; replaced whole
``reference``          texts of the full cache that rows are compared with, one file for each item
=====================  ==========================================================================

A run that is killed loses at most the line that was being written; `RunFolder.resume` cuts it off.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

from scope_cpp.errors import ScopeError, UsageError
from scope_cpp.eval.record import Prediction
from scope_cpp.files import (
    FORMAT,
    cannot_begin,
    cannot_write,
    dump,
    lock,
    open_own,
    read_json,
    replace,
)

_NEEDED = ("model", "task", "items", "seed", "template", "temp", "rows", "versions")

CONFIG, PREDICTIONS, METRICS = "config.json", "predictions.jsonl", "metrics.json"


class RunFolder:
    """A run's folder that exists; made by `open`, or by `create`.

    Attributes
    ----------
    path : Path
    config : dict
        What ``config.json`` holds, see `scope_cpp.eval.config`.
    """

    def __init__(self, path: Path, config: dict[str, Any]) -> None:
        self.path, self.config = path, config

    @classmethod
    def open(cls, path: str | Path) -> RunFolder:
        """Open a folder to read it.

        Raises
        ------
        UsageError
            If it is no run's folder.
        ScopeError
            If it was written by a newer version, or is damaged.
        """
        folder = Path(path)
        if not (folder / CONFIG).is_file():
            raise UsageError(
                f"{path} holds no run of 'scope eval run' (no {CONFIG}): give the folder of one"
            )
        config = read_json(folder / CONFIG)
        lacking = [key for key in _NEEDED if key not in config]
        if lacking:
            raise ScopeError(
                f"{folder / CONFIG} is damaged (no {lacking[0]}): start the run anew in another "
                "folder"
            )
        return cls(folder, config)

    @classmethod
    def create(cls, path: str | Path, config: Mapping[str, Any]) -> RunFolder:
        """Make a new folder.

        Raises
        ------
        UsageError
            If there is something else at `path`.
        ScopeError
            If it can't be written.
        """
        folder = Path(path)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if any(name for name in os.listdir(folder) if not name.startswith(".")):
                raise UsageError(f"{path} has other files in it: name a new folder (--out)")
            run = cls(folder, {"format": FORMAT, **config})
            replace(folder / CONFIG, dump(run.config))
        except (FileExistsError, NotADirectoryError):
            raise UsageError(f"{path} is no folder: name a new one (--out)") from None
        except OSError as err:
            cannot_begin(folder, err)
        return run

    @staticmethod
    def exists(path: str | Path) -> bool:
        """Whether there is a run at `path`."""
        return (Path(path) / CONFIG).is_file()

    # -- reading --------------------------------------------------------------------------

    def predictions(self) -> list[Prediction]:
        """Return what is finished, and what failed; of a sample that was tried again the last.

        Raises
        ------
        ScopeError
            If a line is damaged, or is none of this run; the message names it.
        """
        rows = {row["name"] for row in self.config["rows"]}
        found: dict[tuple[str, str], Prediction] = {}
        for number, line in enumerate(self._whole().split(b"\n")[:-1], start=1):
            try:
                prediction = Prediction.from_json(json.loads(line))
            except (ValueError, TypeError, KeyError, AttributeError) as err:
                self._damaged(number, f"is no prediction ({err})")
            if prediction.row not in rows:
                self._damaged(number, f"is of a row {prediction.row!r} that this run has not")
            before = found.get(prediction.key)
            if before is not None and before.error is None:
                self._damaged(number, f"repeats item {prediction.item!r} of {prediction.row!r}")
            found[prediction.key] = prediction
        return list(found.values())

    def metrics(self) -> dict[str, Any]:
        """Return what ``metrics.json`` holds.

        Raises
        ------
        ScopeError
            If there is none yet, or it was not made of these predictions.
        """
        path = self.path / METRICS
        if not path.is_file():
            raise ScopeError(f"{path} is not there yet: let the run go on with the same command")
        metrics = read_json(path)
        if metrics.get("predictions_sha256") != self.digest():
            raise ScopeError(
                f"{path} was not made of the {PREDICTIONS} beside it: start the same command again"
            )
        return metrics

    def digest(self) -> str:
        """Return the SHA-256 of the predictions."""
        path = self.path / PREDICTIONS
        return hashlib.sha256(path.read_bytes() if path.is_file() else b"").hexdigest()

    def _whole(self) -> bytes:
        """Return the lines that are whole: what follows them is being written, or never was."""
        path = self.path / PREDICTIONS
        try:
            data = path.read_bytes() if path.is_file() else b""
        except OSError as err:
            raise ScopeError(f"{path} cannot be read: {err.strerror}") from None
        return data[: data.rfind(b"\n") + 1]

    def _damaged(self, number: int, what: str) -> NoReturn:
        raise ScopeError(
            f"{self.path / PREDICTIONS} line {number} {what}: remove the line, "
            "its sample then runs again"
        )

    # -- writing --------------------------------------------------------------------------

    @contextlib.contextmanager
    def writing(self) -> Iterator[Writer]:
        """Hold the folder and append predictions to it; a half-written last line is cut off.

        Raises
        ------
        ScopeError
            If another process holds it, or it can't be written.
        """
        path = self.path / PREDICTIONS
        try:
            file = os.fdopen(open_own(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), "ab")
        except OSError as err:
            cannot_write(path, err)
        with file:
            if not lock(file.fileno()):
                raise ScopeError(f"{self.path}: another process writes to this run: let it finish")
            file.truncate(len(self._whole()))
            yield Writer(path, file.fileno())

    def add_rows(self, config: Mapping[str, Any]) -> None:
        """Add the rows of a later command, and the command, if there are new ones among them."""
        known = {row["name"] for row in self.config["rows"]}
        rows = [row for row in config["rows"] if row["name"] not in known]
        if not rows:
            return
        self.config["rows"] += rows
        self.config.setdefault("later_commands", []).append(config["command"])
        try:
            replace(self.path / CONFIG, dump(self.config))
        except OSError as err:
            cannot_write(self.path / CONFIG, err)

    def write_metrics(self, metrics: Mapping[str, Any]) -> None:
        """Replace ``metrics.json``; at any moment the old one or the whole new one is there."""
        path = self.path / METRICS
        content = {"format": FORMAT, "predictions_sha256": self.digest(), **metrics}
        try:
            replace(path, dump(content))
        except OSError as err:
            cannot_write(path, err)


class Writer:
    """Appends predictions, each in one write that is on the disk when `append` returns."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self._path, self._descriptor = path, descriptor

    def append(self, prediction: Prediction) -> None:
        """Add a line.

        Raises
        ------
        ScopeError
            If there is no room, or another reason why it can't be written.
        """
        line = json.dumps(prediction.to_json(), ensure_ascii=True).encode() + b"\n"
        try:
            while line:
                line = line[os.write(self._descriptor, line) :]
            os.fsync(self._descriptor)
        except OSError as err:
            cannot_write(self._path, err)
