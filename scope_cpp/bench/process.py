"""The process of a row, from the outside."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import tempfile
from dataclasses import asdict
from typing import Any

from scope_cpp import child
from scope_cpp.bench.row import Compute, Row
from scope_cpp.errors import ScopeError


class RowRefused(ScopeError):
    """The row can't be measured; the message says why."""


class RowDied(ScopeError):
    """The row's process ended by itself; the message has the last line that it wrote."""


class Worker:
    """A row's process: between two answers it waits on its stdin and computes nothing.

    Parameters
    ----------
    row, compute
        What it measures.
    library
        Folder of the libllama that it loads; ``None``: our own.
    verbose
        Let llama.cpp's log go into what `errors` returns.
    """

    def __init__(
        self, row: Row, compute: Compute, library: str | None = None, verbose: bool = False
    ) -> None:
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - open as long as the process
        environment = dict(os.environ)
        if library is not None:
            environment["LLAMA_CPP_LIB_PATH"] = os.path.abspath(library)
        self.process = subprocess.Popen(
            child.command("scope_cpp.bench.worker"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            env=environment,
        )
        self._first = {"row": row.to_json(), "compute": asdict(compute), "verbose": verbose}

    def start(self) -> dict[str, Any]:
        """Let it load the model and fill its cache; return what it says about them.

        Raises
        ------
        RowRefused, RowDied
            If it does not.
        """
        return self._ask(json.dumps(self._first), "ready")

    def block(self) -> dict[str, Any]:
        """Let it measure a block.

        Raises
        ------
        RowDied
            If it does not.
        """
        return self._ask("go", "block")

    def errors(self) -> str:
        """Return what it wrote to stderr; nothing after `close`."""
        if self._errors.closed:
            return ""
        self._errors.seek(0)
        return self._errors.read().decode(errors="replace")

    def close(self) -> None:
        """Kill it; returns when it is gone."""
        self.process.kill()
        self.process.wait()
        self._errors.close()
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                with contextlib.suppress(BrokenPipeError):  # a request that nobody read
                    stream.close()

    def _ask(self, request: str, expected: str) -> dict[str, Any]:
        assert self.process.stdin is not None and self.process.stdout is not None
        try:
            self.process.stdin.write(request + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            raise RowDied(self._last_words()) from None
        line = self.process.stdout.readline()
        if not line:
            raise RowDied(self._last_words())
        kind, value = next(iter(json.loads(line).items()))
        if kind == "refused":
            raise RowRefused(value)
        if kind != expected:
            raise RowDied(f"its process answered {kind} where {expected} was due")
        return dict(value)

    def _last_words(self) -> str:
        status = self.process.wait()
        ended = f"its process ended with {status}"
        if status < 0:
            ended = f"its process was killed by {signal.Signals(-status).name}"
        lines = [line.strip() for line in self.errors().splitlines() if line.strip()]
        return f"{ended}: {lines[-1]}" if lines else ended
