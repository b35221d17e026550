"""Chat templates rendered in a process of their own, within bounds of time and memory."""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from scope_cpp import child
from scope_cpp.errors import ScopeError, UsageError

MAX_SECONDS = 5.0  # of CPU time; a long conversation takes some hundredths
MAX_BYTES = 1 << 30
SPARE_CHARS = 1 << 20  # that a template may write beside the messages, each up to four times

_WORKER = Path(__file__).with_name("jinja_worker.py")


class TemplateError(UsageError):
    """A template that fails.

    Attributes
    ----------
    refused : bool
        It said so itself, with ``raise_exception``.
    exhausted : bool
        Its process ended without a result, such as for the time that it took.
    """

    def __init__(
        self, cause: str, line: int | None = None, refused: bool = False, exhausted: bool = False
    ) -> None:
        where = f" (line {line})" if line and not refused else ""
        remedy = "" if refused else ": give another (--chat-template)"
        super().__init__(f"the chat template failed{where}: {' '.join(cause.split())}{remedy}")
        self.refused, self.exhausted = refused, exhausted


def render(source: str, context: Mapping[str, Any]) -> str:
    """Return what the Jinja template writes with the variables of `context`.

    The template sees `context`, ``raise_exception`` and ``strftime_now``, and what JSON turned
    `context` into is all that it can change. The first call starts the process (some hundredths
    of a second), later ones take about a millisecond.

    Raises
    ------
    TemplateError
        With the cause: its syntax, its own ``raise_exception``, an access that the sandbox
        forbids, or a bound that it exceeds.
    ScopeError
        If the process cannot be started.
    """
    values = json.dumps(dict(context))
    request = {
        "source": source,
        "context": context,
        "max_chars": SPARE_CHARS + 4 * len(values),
        "seconds": MAX_SECONDS,
    }
    reply = _worker.ask(json.dumps(request).encode() + b"\n")
    if "error" in reply:
        raise TemplateError(reply["error"], reply.get("line"), reply.get("refused", False))
    return str(reply["prompt"])


class _Worker:
    """The process, started when it is needed first; threads take turns."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._owner = 0

    def ask(self, request: bytes) -> dict[str, Any]:
        """Return the reply to a request; raises a TemplateError if the process ended instead."""
        with self._lock:
            process = self._running()
            try:
                line = _exchange(process, request)
            except BaseException:  # Ctrl-C: its reply must not be taken for the next one's
                self.close()
                raise
            if not line:
                code = process.wait()
                self.close()
                raise TemplateError(_why_it_ended(code), exhausted=True)
            return dict(json.loads(line))

    def _running(self) -> subprocess.Popen[bytes]:
        if self._owner != os.getpid():  # a fork shares the pipes
            self._process = None
        if self._process is None or self._process.poll() is not None:
            self._process, self._owner = _start(), os.getpid()
        return self._process

    def close(self) -> None:
        """End the process; the next request starts another one."""
        process, self._process = self._process, None
        if process is None or self._owner != os.getpid():
            return
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            with contextlib.suppress(OSError):  # what was not sent any more
                if pipe is not None:
                    pipe.close()


def _start() -> subprocess.Popen[bytes]:
    try:
        return subprocess.Popen(
            child.command(_WORKER, MAX_BYTES, site=False),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C is for this process
        )
    except OSError as err:
        raise ScopeError(
            f"{sys.executable or 'Python'} cannot be started to read the chat template"
            f" ({err.strerror}): give a raw prompt"
        ) from None


def _exchange(process: subprocess.Popen[bytes], request: bytes) -> bytes:
    assert process.stdin is not None and process.stdout is not None
    with contextlib.suppress(BrokenPipeError):
        process.stdin.write(request)
        process.stdin.flush()
    return process.stdout.readline()


def _why_it_ended(code: int | None) -> str:
    if code == -signal.SIGPROF:
        return f"it takes more than {MAX_SECONDS:g} s"
    return f"its process ended with code {code}"


_worker = _Worker()
atexit.register(_worker.close)
