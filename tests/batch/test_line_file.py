"""A file of lines: cut off anywhere, full, held by another."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from scope_cpp.batch import line_file
from scope_cpp.batch.line_file import LineFile
from scope_cpp.errors import ScopeError

LINES = [b"{}", b"x" * 70_000, "\u00e9".encode(), b""]
WHOLE = b"".join(line + b"\n" for line in LINES)
ENDS = [0, 3, 70_004, 70_007, 70_008]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "lines"


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
@given(size=st.sampled_from(ENDS) | st.integers(0, len(WHOLE)))
def test_a_file_that_ends_anywhere_goes_on_after_its_last_whole_line(path: Path, size: int) -> None:
    path.write_bytes(WHOLE[:size])
    whole = max(end for end in ENDS if end <= size)
    with LineFile(path) as file:
        assert list(file.read()) == LINES[: ENDS.index(whole)]
        assert path.stat().st_size == size, "nothing changes before it is told to"
        assert file.cut() == size - whole
        file.append(b"new\n")
        assert list(file.read()) == [*LINES[: ENDS.index(whole)], b"new"]


def test_a_line_is_one_write_and_on_the_disk(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    write, fsync = os.write, os.fsync
    with LineFile(path) as file:
        monkeypatch.setattr(
            line_file.os, "write", lambda fd, data: (calls.append("write"), write(fd, data))[1]
        )
        monkeypatch.setattr(line_file.os, "fsync", lambda fd: (calls.append("sync"), fsync(fd))[1])
        file.append(b"x" * 100_000 + b"\n")
        file.append(b"y\n")
    assert calls == ["write", "sync"] * 2


@pytest.mark.parametrize("failing", ["write", "fsync"])
def test_what_does_not_fit_is_taken_back(
    path: Path, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    with LineFile(path) as file:
        file.append(b"first\n")
        write, calls = os.write, 0

        def full(descriptor: int, data: bytes = b"") -> int:
            nonlocal calls
            calls += 1
            if failing == "write" and calls == 1:
                return write(descriptor, data[:3])
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(line_file.os, failing, full)
        with pytest.raises(ScopeError, match="lines cannot be written: No space left on device"):
            file.append(b"second\n")
        monkeypatch.undo()
        assert path.read_bytes() == b"first\n"
        file.append(b"second\n")
    assert path.read_bytes() == b"first\nsecond\n"


def test_one_process_at_a_time(path: Path) -> None:
    with LineFile(path), pytest.raises(ScopeError, match="another process writes to it"):
        LineFile(path)
    LineFile(path).close()


def test_a_file_that_can_not_be_made(tmp_path: Path) -> None:
    with pytest.raises(ScopeError, match="cannot be written: No such file"):
        LineFile(tmp_path / "nowhere" / "lines")
