"""The command on a damaged file: how it ends, what it takes, and what it prints."""

from __future__ import annotations

import compileall
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from scope_cpp.printable import harmless

COMMANDS: tuple[tuple[str, ...], ...] = (("inspect",), ("generate", "-p", "hi", "-n", "5"))

MAX_SECONDS = 2.0  # of CPU time
MAX_LINES = 4  # on stderr
_KILLED_AFTER = 60.0
_GOOD_CODES = (0, 1, 2)  # 2: the file is good, and the prompt or the budget does not go with it


@dataclass(frozen=True)
class Run:
    """What one run of the command came to.

    Attributes
    ----------
    file, command
        What ran.
    code
        Exit code; a signal's number, negated.
    seconds
        CPU time, that of its children included.
    hung
        Whether it was killed because it did not end.
    out, err
        What it printed.
    """

    file: str
    command: tuple[str, ...]
    code: int
    seconds: float
    hung: bool
    out: bytes
    err: bytes

    def offences(self) -> list[str]:
        """Return what should not have been."""
        found = []
        if self.hung:
            found.append("does not end")
        elif self.code < 0:
            found.append(f"killed by {signal.Signals(-self.code).name}")
        elif self.code not in _GOOD_CODES:
            found.append(f"exit code {self.code}")
        if self.seconds > MAX_SECONDS:
            found.append(f"{self.seconds:.1f} s of CPU time")
        # text that was written before numbers overflowed is the model's
        if self.code != 0 and self.out and b"the model computes" not in self.err:
            found.append("prints on stdout although it fails")
        lines = self.err.splitlines()
        if len(lines) > MAX_LINES:
            found.append(f"{len(lines)} lines on stderr")
        if self.code in (1, 2) and sum(line.startswith(b"error: ") for line in lines) != 1:
            found.append("no error line, or several")
        if b"Traceback" in self.err or b"run with -v" in self.err:
            found.append("an unforeseen error")
        text = self.err.decode(errors="surrogateescape")
        if harmless(text) != text:
            found.append("control characters on stderr")
        return found


def compile_sources() -> None:
    """Compile our sources, as an installation does; a run would spend up to two seconds on it."""
    for name in ("scope_cpp", "scope_cli"):
        compileall.compile_dir(Path(str(import_module(name).__file__)).parent, quiet=1)


def run(path: Path, command: Sequence[str]) -> Run:
    """Run ``scope COMMAND PATH …`` and wait for its end."""
    argv = [sys.executable, "-m", "scope_cli", command[0], str(path), *command[1:]]
    environment = {**os.environ, "OMP_WAIT_POLICY": "passive", "SCOPE_THREADS": "1"}
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        process = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            env=environment,
            start_new_session=True,
        )
        hung = threading.Event()

        def kill() -> None:
            hung.set()
            os.killpg(process.pid, signal.SIGKILL)

        timer = threading.Timer(_KILLED_AFTER, kill)
        timer.start()
        _, status, used = os.wait4(process.pid, 0)
        timer.cancel()
        process.returncode = os.waitstatus_to_exitcode(status)
        seconds = used.ru_utime + used.ru_stime
        out.seek(0)
        err.seek(0)
        return Run(
            path.name,
            tuple(command),
            process.returncode,
            seconds,
            hung.is_set(),
            out.read(),
            err.read(),
        )


def summary(runs: Sequence[Run]) -> str:
    """Return the exit codes by command, the longest time, and what was wrong."""
    lines = []
    for command in sorted({run.command for run in runs}):
        own = [run for run in runs if run.command == command]
        codes = Counter(run.code for run in own)
        counts = ", ".join(f"{n} with {code}" for code, n in sorted(codes.items()))
        longest = max(own, key=lambda run: run.seconds)
        lines.append(f"{' '.join(command)}: {len(own)} runs ended: {counts}")
        lines.append(f"  at most {longest.seconds:.2f} s of CPU time ({longest.file})")
    for run in runs:
        for offence in run.offences():
            lines.append(f"WRONG: {run.command[0]} {run.file}: {offence}")
    return "\n".join(lines)
