"""Files that are put in place of others: whole or not at all, and only where they are meant to."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from scope_cpp import files
from scope_cpp.files import behind_links, check_replaceable, open_own, replace, replacing


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize(("mask", "expected"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_a_new_file_has_the_mode_that_the_user_wants(
    tmp_path: Path, mask: int, expected: int
) -> None:
    before = os.umask(mask)
    try:
        replace(tmp_path / "a", b"x")
        with replacing(tmp_path / "b", private=True) as file:
            file.write(b"x")
    finally:
        os.umask(before)
    assert mode(tmp_path / "a") == expected
    assert mode(tmp_path / "b") == 0o600


@pytest.mark.parametrize("private", [False, True])
def test_an_old_file_keeps_its_mode(tmp_path: Path, private: bool) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"old")
    for old in (0o640, 0o600, 0o755):
        path.chmod(old)
        with replacing(path, private) as file:
            file.write(b"new")
        assert mode(path) == old and path.read_bytes() == b"new"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_an_old_file_keeps_its_owner(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"old")
    os.chown(path, 1234, 4321)
    replace(path, b"new")
    assert (path.stat().st_uid, path.stat().st_gid) == (1234, 4321)


def test_a_link_is_replaced_and_what_it_leads_to_stays(tmp_path: Path) -> None:
    precious, link = tmp_path / "precious", tmp_path / "link"
    precious.write_bytes(b"precious")
    link.symlink_to(precious)
    replace(link, b"new")
    assert precious.read_bytes() == b"precious"
    assert link.read_bytes() == b"new" and not link.is_symlink()


def test_a_link_that_a_user_names_is_followed(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "real")
    for content in (b"1", b"2"):  # at first it leads nowhere
        replace(behind_links(tmp_path / "link"), content)
        assert (tmp_path / "link").is_symlink()
        assert (tmp_path / "real").read_bytes() == content


def test_a_name_that_somebody_foresaw_is_not_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A link lies where the half-written file is to be made, as if its name had been guessed."""
    precious = tmp_path / "precious"
    precious.write_bytes(b"precious")
    monkeypatch.setattr(files.secrets, "token_hex", lambda n: "guessed")
    (tmp_path / ".scope-guessed.tmp").symlink_to(precious)
    with pytest.raises(FileExistsError):
        replace(tmp_path / "a", b"new")
    assert precious.read_bytes() == b"precious"
    assert names(tmp_path) == [".scope-guessed.tmp", "precious"]


def test_half_written_files_have_names_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = set()
    with replacing(tmp_path / "a") as one, replacing(tmp_path / "a") as other:
        seen.update(names(tmp_path))
        one.write(b"1")
        other.write(b"2")
    assert len(seen) == 2
    assert names(tmp_path) == ["a"]


def test_a_file_of_our_own_is_not_opened_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with pytest.raises(OSError) as refused:
        open_own(tmp_path / "link", os.O_WRONLY | os.O_CREAT)
    assert refused.value.errno == errno.ELOOP
    assert not (tmp_path / "real").exists()


def full_disk(*_: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def interrupted(*_: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("fails", ["fsync", "replace", "fchmod"])
@pytest.mark.parametrize("how", [full_disk, interrupted])
def test_if_it_fails_what_was_there_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: str, how: Callable[..., None]
) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"old")
    monkeypatch.setattr(files.os, fails, how)
    with pytest.raises((OSError, KeyboardInterrupt)):
        replace(path, b"new")
    assert path.read_bytes() == b"old" and names(tmp_path) == ["a"]


def test_a_pipe_and_a_device_are_written_to(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    replace(tmp_path / "pipe", b"x")
    assert os.read(reader, 10) == b"x"
    os.close(reader)
    replace(Path("/dev/null"), b"x")
    assert Path("/dev/null").is_char_device()


def test_what_can_not_be_replaced_is_known_before(tmp_path: Path) -> None:
    (tmp_path / "old").write_bytes(b"old")
    for path in (tmp_path / "old", tmp_path / "new"):
        check_replaceable(path)
    assert names(tmp_path) == ["old"]
    assert (tmp_path / "old").read_bytes() == b"old"
    for path in (tmp_path, tmp_path / "missing" / "new", tmp_path / ("x" * 300)):
        with pytest.raises(OSError):
            check_replaceable(path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_what_is_not_ours_to_write(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"old")
    path.chmod(0o444)
    with pytest.raises(PermissionError):
        check_replaceable(path)
    tmp_path.chmod(0o555)
    with pytest.raises(PermissionError):
        check_replaceable(tmp_path / "b")
    tmp_path.chmod(0o755)
