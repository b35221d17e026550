"""Files that a chat reads, and its history."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from scope_cpp.errors import UsageError
from scope_cpp.texts import NotText, decode

# No budget holds the tokens of a larger text
MOST_BYTES = 16 * 1024 * 1024


def path_of(text: str) -> Path:
    """Return the path that a user typed: quotes are left out, ``~`` is the home."""
    text = text.strip()
    if len(text) > 1 and text[0] == text[-1] and text[0] in "\"'":
        text = text[1:-1]
    return Path(text).expanduser()


def read_text_file(path: Path) -> str:
    """Return the text of a file.

    Raises
    ------
    UsageError
        For anything but a readable file of UTF-8 text of at most `MOST_BYTES`.
    """
    data = _read(path)
    if len(data) > MOST_BYTES:
        raise UsageError(f"{path} has more than {MOST_BYTES >> 20} MiB: no budget holds that text")
    try:
        text = decode(data)
    except NotText as err:
        raise UsageError(f"{path}: {err}") from None
    if not text.strip():
        raise UsageError(f"{path} is empty")
    return text


def _read(path: Path) -> bytes:
    """Return the first bytes, one more than allowed; a pipe or a device is never waited for."""
    try:
        number = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
        with os.fdopen(number, "rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            if stat.S_ISDIR(mode):
                raise UsageError(f"{path} is a directory: give a text file")
            if not stat.S_ISREG(mode):
                raise UsageError(f"{path} is no regular file: give a text file")
            return file.read(MOST_BYTES + 1)
    except IsADirectoryError:
        raise UsageError(f"{path} is a directory: give a text file") from None
    except ValueError as err:  # a NUL in the name
        raise UsageError(f"{path}: {err}") from None
    except OSError as err:
        raise UsageError(f"{path}: {err.strerror}") from None


def history_file() -> Path:
    """Return the file of the messages typed so far, made so that its owner alone can read it.

    Raises
    ------
    OSError
        If it can't be made.
    """
    from platformdirs import user_state_path

    folder = user_state_path("scope-cpp", appauthor=False)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = folder / "chat_history"
    number = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        if hasattr(os, "fchmod"):
            os.fchmod(number, 0o600)
    finally:
        os.close(number)
    return path
