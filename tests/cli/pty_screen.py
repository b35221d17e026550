"""A process in a terminal without a screen: what it writes is read by an emulator."""

from __future__ import annotations

import contextlib
import os
import re
import select
import signal
import struct
import time
from typing import Any

import pyte

from scope_cpp import child

TIMEOUT = 60.0

# of the terminal that the tests run in; pytest-xdist sets the sizes
_OF_OTHERS = ("NO_COLOR", "COLUMNS", "LINES")


# bracketed paste goes on and off, which the chat wants while it asks for a line
_LINE_BEGINS, _LINE_ENDS = b"\x1b[?2004h", b"\x1b[?2004l"


class Terminal:
    """Runs ``scope`` with arguments in a pseudo terminal of `columns` and `rows`.

    It does not break lines anew when it gets narrower, as xterm does not: the process is told so.
    """

    def __init__(
        self, *args: object, columns: int = 80, rows: int = 24, env: dict[str, str] | None = None
    ) -> None:
        import fcntl
        import pty
        import termios

        self._fcntl, self._resize_code = fcntl.ioctl, termios.TIOCSWINSZ
        self.raw = b""
        self.screen = pyte.HistoryScreen(columns, rows, history=10_000, ratio=0.5)
        self.screen.write_process_input = self._reply  # type: ignore[method-assign]
        self._stream = pyte.ByteStream(self.screen)
        self._code: int | None = None
        command = child.command("scope_cli", *args)
        values = {**os.environ, "TERM": "xterm-256color", "XTERM_VERSION": "XTerm(390)"}
        values = {name: value for name, value in values.items() if name not in _OF_OTHERS}
        values |= env or {}
        self.pid, self._fd = pty.fork()
        if not self.pid:
            with contextlib.suppress(BaseException):
                # the size is there before the program looks at it
                fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
                os.execvpe(command[0], command, values)
            os._exit(127)

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *_: object) -> None:
        if self._code is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        os.close(self._fd)

    def send(self, text: str) -> None:
        """Type a text."""
        data = text.encode()
        while data:
            _, writable, _ = select.select([], [self._fd], [], 0.05)
            if writable:
                data = data[os.write(self._fd, data[:512]) :]
            self._read(0)

    def line(self, text: str) -> None:
        """Type a text and Enter, once the chat asks for it."""
        self.wait_prompt()
        self.send(text)
        self._until(lambda: not self._at_prompt(">"), "what is typed is not shown")
        start = len(self.raw)
        self.send("\r")
        self._until(lambda: _LINE_ENDS in self.raw[start:], "the line is not taken")

    def paste(self, text: str) -> None:
        """Paste, as terminals do where a program asked for it."""
        self.send(f"\x1b[200~{text}\x1b[201~")

    def signal(self, number: int) -> None:
        """Send a signal to the process."""
        os.kill(self.pid, number)

    def resize(self, columns: int, rows: int) -> None:
        """Change the size of the terminal; the process is told by the kernel."""
        self.screen.resize(rows, columns)
        self._fcntl(self._fd, self._resize_code, struct.pack("HHHH", rows, columns, 0, 0))

    def wait(self, text: str, *, new: bool = True) -> None:
        """Wait until `text` appears in what is written from now on, or with all before it.

        Only a signal may come directly before: what the process answers to is read as it is typed.
        """
        start = len(self.raw) if new else 0
        self._until(lambda: text in strip(self.raw[start:]), f"{text!r} did not appear")

    def wait_written(self) -> None:
        """Wait until more is written, or the chat asks for a line."""
        start = len(self.raw)
        self._until(lambda: len(self.raw) > start or self._at_prompt(">"), "nothing is written")

    def wait_shown(self, text: str) -> None:
        """Wait until `text` is on the screen or in what scrolled off it."""
        self._until(lambda: text in self.recent(), f"{text!r} is not shown")

    def wait_prompt(self, label: str = ">") -> None:
        """Wait until the chat asks for a line: the label is before the cursor."""
        self._until(lambda: self._at_prompt(label), "there is no prompt")

    def wait_answer(self, said: str) -> None:
        """Wait until there is text below the line that was said."""

        def begun() -> bool:
            _, line, below = self.recent().rpartition(f"> {said}\n")
            return bool(line and below.strip()) and "reading" not in below

        self._until(begun, "there is no answer")

    def exit_code(self) -> int:
        """Wait for the end of the process."""
        self._until(self._ended, "the process does not end")
        while self._read(0):
            pass
        assert self._code is not None
        return self._code

    def lines(self) -> list[str]:
        """All lines, those that scrolled off first."""
        top = [_line(row, self.screen.columns) for row in self.screen.history.top]
        return [line.rstrip() for line in [*top, *self.screen.display]]

    def recent(self) -> str:
        """The screen, and a few of the lines that scrolled off."""
        top = list(self.screen.history.top)[-40:]
        rows = [_line(row, self.screen.columns) for row in top] + self.screen.display
        return "\n".join(row.rstrip() for row in rows).rstrip("\n")

    def text(self) -> str:
        """All lines in one text."""
        return "\n".join(self.lines()).rstrip("\n")

    def wait_prompt_with(self, text: str) -> None:
        """Wait until the chat asks for a line that ends with `text`."""
        self._until(
            lambda: self.raw.rpartition(_LINE_BEGINS)[2].strip() and self._at_end_of(text),
            f"there is no prompt with {text!r}",
        )

    def _at_end_of(self, text: str) -> bool:
        cursor = self.screen.cursor
        before = self.screen.display[cursor.y][: cursor.x].rstrip()
        return before.endswith(text) and not self._read(0.02)

    def _at_prompt(self, label: str) -> bool:
        # an answer may have the label at its end, too: it is written without this mode
        if self.raw.rfind(_LINE_BEGINS) < self.raw.rfind(_LINE_ENDS):
            return False
        cursor = self.screen.cursor
        before = self.screen.display[cursor.y][: cursor.x].rstrip()
        return before == label and not self._read(0.02)

    def _until(self, done: Any, problem: str) -> None:
        end = time.monotonic() + TIMEOUT
        while not done():
            if time.monotonic() > end or (not self._read(0.05) and self._ended()):
                if done():
                    return
                raise AssertionError(f"{problem}; the screen shows\n{self.recent()}")

    def _ended(self) -> bool:
        if self._code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self._code = os.waitstatus_to_exitcode(status)
        return self._code is not None

    def _read(self, seconds: float) -> bool:
        readable, _, _ = select.select([self._fd], [], [], seconds)
        if not readable:
            return False
        try:
            data = os.read(self._fd, 65536)
        except OSError:  # the other side is closed
            return False
        self.raw += data
        self._stream.feed(data)
        return bool(data)

    def _reply(self, data: str) -> None:
        os.write(self._fd, data.encode())


def strip(raw: bytes) -> str:
    """Return the text of what was written, without the commands to the terminal."""
    text = raw.decode("utf-8", errors="replace")
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b[=>]|\r", "", text)


def _line(row: Any, columns: int) -> str:
    return "".join(row[x].data for x in range(columns))
