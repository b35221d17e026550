"""Files that are read and written with care: whole or not at all, by one process at a time."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import secrets
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

from scope_cpp.errors import ScopeError, UsageError

FORMAT = 1

_OWN = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)


def cannot_begin(path: Path, err: OSError) -> NoReturn:
    """Raise the error of a file that can't be opened for writing: nothing was done yet."""
    raise ScopeError(
        f"{path} cannot be written: {err.strerror or err}; name another place"
    ) from None


def cannot_write(path: Path, err: OSError) -> NoReturn:
    """Raise the error of a file that can't be written on."""
    raise ScopeError(
        f"{path} cannot be written: {err.strerror or err}; what is finished stays, the same "
        "command goes on from there"
    ) from None


def check_named(flag: str, path: str | Path) -> Path:
    """Refuse a file that a flag names and that can't be written, before hours are spent on it.

    Raises
    ------
    UsageError
        With the reason; nothing is written.
    """
    file = Path(path)
    folder = file.absolute().parent
    if file.is_dir():
        raise UsageError(f"{flag} {path} is a folder: name a file in it")
    if not folder.is_dir():
        raise UsageError(f"{flag} {path}: the folder {file.parent} does not exist; make it first")
    if not os.access(file if file.exists() else folder, os.W_OK):
        raise UsageError(f"{flag} {path} can't be written there: choose another place")
    return file


def lock(descriptor: int) -> bool:
    """Lock a file while it is open; Windows has no such lock, and does without."""
    try:
        import fcntl
    except ImportError:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def read_json(path: Path) -> dict[str, Any]:
    """Return an object that has a format we know.

    Raises
    ------
    ScopeError
        If it can't be read, is damaged, or was written by a newer version.
    """
    try:
        values = json.loads(path.read_bytes())
    except OSError as err:
        raise ScopeError(f"{path} cannot be read: {err.strerror}") from None
    except ValueError as err:
        raise ScopeError(f"{path} is damaged ({err}): give another place to begin anew") from None
    version = values.get("format") if isinstance(values, dict) else None
    if not isinstance(version, int):
        raise ScopeError(f"{path} is damaged (no format): give another place to begin anew")
    if version > FORMAT:
        raise ScopeError(
            f"{path} has format {version}, this version of scope-cpp knows {FORMAT}: update it"
        )
    return dict(values)


def dump(values: Mapping[str, Any]) -> bytes:
    """Return the text of an object."""
    return (json.dumps(values, indent=1, ensure_ascii=False) + "\n").encode()


def replace(path: Path, data: bytes) -> None:
    """Put a file with this content in place of `path`; see `replacing`."""
    with replacing(path) as file:
        file.write(data)


def behind_links(path: str | Path) -> Path:
    """Return the file that a user's path stands for.

    Only paths that a user names are followed. A file whose name we make up, beside such a path, is
    ours: a link in its place is replaced, or refused, and what it leads to stays as it is.
    """
    return Path(os.path.realpath(path))


@contextlib.contextmanager
def replacing(path: Path, private: bool = False) -> Iterator[BinaryIO]:
    """Open a new file that takes the place of `path` once it is whole and on the disk.

    If the block fails, what was there stays as it was. The new file has the mode of the old one,
    and its owner where that can be had. A link is replaced itself, see `behind_links`.

    Parameters
    ----------
    path
        A file, or nothing yet. A device or a pipe is written to as it is.
    private
        Whether only the owner may read a file that was not there before.

    Raises
    ------
    OSError
        If it can't be written.
    """
    old = _status(path)
    if old is not None and not stat.S_ISREG(old.st_mode) and not stat.S_ISLNK(old.st_mode):
        with path.open("wb") as file:  # a folder is refused here
            yield file
        return
    if old is not None and stat.S_ISREG(old.st_mode) and not os.access(path, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
    with _new_file(path.parent, 0o600 if private else 0o666) as (file, name):
        yield file
        file.flush()
        if old is not None and stat.S_ISREG(old.st_mode):
            _take_over(file.fileno(), old)
        os.fsync(file.fileno())
        os.replace(name, path)
    sync_folder(path.parent)


@contextlib.contextmanager
def _new_file(folder: Path, mode: int) -> Iterator[tuple[BinaryIO, str]]:
    """Make a file of a name that nobody can foresee; it is removed if the block fails."""
    # the name is short, whatever that of the file that it is to replace
    name = os.path.join(folder, f".scope-{secrets.token_hex(8)}.tmp")
    descriptor = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _OWN, mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file, name
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(name)
        raise


def _take_over(descriptor: int, old: os.stat_result) -> None:
    """Give a file the mode of another one, and its owner where that is allowed."""
    if not hasattr(os, "fchown"):  # Windows
        return
    with contextlib.suppress(OSError):
        os.fchown(descriptor, old.st_uid, old.st_gid)
    os.fchmod(descriptor, stat.S_IMODE(old.st_mode))


def check_replaceable(path: Path) -> None:
    """Raise the `OSError` that `replacing` would raise for want of a folder or of permission."""
    with contextlib.suppress(_Probed), replacing(path):
        raise _Probed


class _Probed(Exception):
    """Ends `replacing` before anything is replaced."""


def open_own(path: Path, flags: int) -> int:
    """Open a file whose name we make up, as `os.open` does, but never what a link leads to."""
    try:
        return os.open(path, flags | _OWN, 0o666)
    except OSError as err:
        if err.errno != errno.ELOOP:
            raise
        raise OSError(errno.ELOOP, "it is a link, which is not followed here", str(path)) from None


def sync_folder(folder: Path) -> None:
    """Let names in a folder survive a loss of power, where the system can."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _status(path: Path) -> os.stat_result | None:
    try:
        return path.lstat()
    except FileNotFoundError:
        return None
