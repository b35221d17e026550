"""Batches that are killed, and disks that fill up: nothing lost, nothing twice."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from scope_cpp.engine.model import Model
from scope_cpp.reference.shipped import MODEL
from tests.batch.conftest import ROWS
from tests.batch.drive import batch, by_id, records, write_rows

ROOT = Path(__file__).resolve().parents[2]
ENV = {**os.environ, "OMP_NUM_THREADS": "1"}

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")


def killed(rows: Path, out: Path, where: str, number: int, *ordered: str) -> None:
    child = subprocess.run(
        [sys.executable, "-m", "tests.batch.killed_child", str(rows), str(out), where,
         str(number), *ordered],
        cwd=ROOT, env=ENV, capture_output=True,
    )  # fmt: skip
    assert child.returncode == -signal.SIGKILL, child.stderr.decode()


def test_a_killed_run_goes_on_and_loses_nothing(
    model: Model, rows: Path, tmp_path: Path, undisturbed: dict[str, Any]
) -> None:
    out = tmp_path / "out.jsonl"
    kept: list[dict[str, Any]] = []
    for where, number in (("replace", 1), ("step", 75), ("written", 2), ("write", 2)):
        killed(rows, out, where, number)
        found = records(out) if out.exists() else []
        assert found[: len(kept)] == kept
        kept = found
    assert 4 <= len(kept) < len(ROWS)
    half = out.read_bytes().rpartition(b"\n")[2]
    assert half and not half.endswith(b"}")
    assert batch(model, rows, out).outcome.n_skipped == len(kept)
    assert records(out)[: len(kept)] == kept
    assert by_id(out) == undisturbed


def test_a_killed_run_in_order_goes_on_and_loses_nothing(
    model: Model, rows: Path, tmp_path: Path, undisturbed: dict[str, Any]
) -> None:
    out = tmp_path / "out.jsonl"
    names = [row["id"] for row in ROWS]
    for where, number in (("write", 2), ("written", 3), ("remove", 1)):
        killed(rows, out, where, number, "ordered")
        written = [record["id"] for record in records(out)]
        assert written == names[: len(written)]
    batch(model, rows, out, ordered=True)
    assert [record["id"] for record in records(out)] == names
    assert by_id(out) == undisturbed
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "out.jsonl", "out.jsonl.run.json", "rows.jsonl",
    ]  # fmt: skip


# full


def command(rows: Path, out: Path, **extra: Any) -> subprocess.CompletedProcess[str]:
    """Run the batch of `drive.batch` as a command."""
    args = ["-np", "3", "--temp", "0", "-n", "24", "--policy", "scope-slide", "--option",
            "interval=4", "-t", "1"]  # fmt: skip
    return subprocess.run(
        [sys.executable, "-m", "scope_cli", "batch", str(MODEL), "-i", str(rows), "-o", str(out),
         *args],
        cwd=ROOT, env=ENV, capture_output=True, text=True, **extra,
    )  # fmt: skip


def refused(process: subprocess.CompletedProcess[str], out: Path, reason: str) -> None:
    assert process.returncode == 1
    errors = [line for line in process.stderr.splitlines() if not line.startswith("warning: ")]
    assert errors == [
        f"error: {out} cannot be written: {reason}; what is finished stays, the same command goes "
        "on from there"
    ]


@contextlib.contextmanager
def small_disk(folder: Path, size: str) -> Iterator[None]:
    """A file system of its own, if this user may mount one."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    try:
        done = subprocess.run(mount, capture_output=True, text=True)
    except OSError as err:
        pytest.skip(f"no mount here: {err}")
    if done.returncode:
        pytest.skip(f"this user can't mount a small disk: {done.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_ends_the_run_and_keeps_what_is_finished(
    model: Model, rows: Path, tmp_path: Path, undisturbed: dict[str, Any]
) -> None:
    disk = tmp_path / "disk"
    with small_disk(disk, "64k"):
        out, ballast = disk / "out.jsonl", disk / "ballast"
        ballast.write_bytes(bytes(56 * 1024))
        process = command(rows, out)
        refused(process, out, "No space left on device")
        kept = records(out)
        assert out.read_bytes().endswith(b"\n")
        assert 0 < len(kept) < len(ROWS)
        ballast.unlink()
        batch(model, rows, out)
        assert records(out)[: len(kept)] == kept
        assert by_id(out) == undisturbed


def test_a_file_that_may_not_grow_ends_the_run_and_keeps_what_is_finished(
    model: Model, rows: Path, tmp_path: Path, undisturbed: dict[str, Any]
) -> None:
    out = tmp_path / "out.jsonl"

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (2500, 2500))

    refused(command(rows, out, preexec_fn=limit), out, "File too large")
    kept = records(out)
    assert out.read_bytes().endswith(b"\n")
    assert 0 < len(kept) < len(ROWS)
    batch(model, rows, out)
    assert records(out)[: len(kept)] == kept
    assert by_id(out) == undisturbed


def test_a_disk_that_is_full_before_the_first_row(model: Model, rows: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))

    refused(command(rows, out, preexec_fn=limit), tmp_path / "out.jsonl.run.json", "File too large")
    assert out.read_bytes() == b""
    one = write_rows(tmp_path / "one.jsonl", ROWS[:1])
    batch(model, one, out)
    assert json.loads(out.read_text())["id"] == "row 0"
