"""``scope batch --ray`` as a process: interrupted, gone on with, and a worker killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from scope_cpp.engine.model import Model
from tests.batch.drive import batch, by_id, records, skip_without_ray, write_rows
from tests.cli.conftest import spawn

ROWS = [
    {
        "id": i,
        "prompt": f"Facts: a={i} b={20 - i}\nQ1 a b\n",
        "n_predict": 150 + 3 * i,
        "ignore_eos": True,
        "budget": 48,
    }
    for i in range(20)
]
# one row at a time on each worker: sums are the same to the last bit, whoever runs with whom
FLAGS = ("--policy", "scope-slide", "--option", "interval=4", "--temp", 0, "-np", 1, "-t", 1)

linux = pytest.mark.skipif(sys.platform != "linux", reason="processes are found in /proc")


def processes(session: int) -> Iterator[tuple[int, str]]:
    """Ids and names of the processes of a session."""
    for folder in Path("/proc").iterdir():
        try:
            line = (folder / "stat").read_text()
        except (OSError, ValueError):
            continue
        before, _, rest = line.rpartition(")")
        name = before.partition("(")[2]
        state, _, _, its_session = rest.split()[:4]
        if int(its_session) == session and state != "Z":
            yield int(folder.name), name


def until(ready: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + 60
    while not ready():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.02)


@linux
def test_a_worker_killed_then_stopped_and_gone_on_with_without_ray_it_has_each_row_once(
    model: Model, tmp_path: Path
) -> None:
    skip_without_ray()
    rows, out, alone = (tmp_path / name for name in ("rows.jsonl", "out.jsonl", "alone.jsonl"))
    write_rows(rows, ROWS)
    # what lies in the current folder is no business of ours: not for workers either
    here = tmp_path / "here"
    here.mkdir()
    for name in ("numpy", "json", "jinja2", "scope_cpp"):
        (here / f"{name}.py").write_text("raise SystemExit(66)\n")
    lay = sorted(os.listdir(here))
    temporary = tempfile.mkdtemp(prefix="ray-", dir="/tmp")  # sockets want a short path

    def start(*flags: object) -> subprocess.Popen[bytes]:
        command = ("batch", model.path, "-i", rows, "-o", out, *FLAGS, *flags)
        return spawn(*command, env={"TMPDIR": temporary}, cwd=here, start_new_session=True)

    def n_records() -> int:
        return out.read_bytes().count(b"\n") if out.exists() else 0

    process = start("--ray", "--ray-workers", 2)
    until(lambda: n_records() >= 2, process)
    worker = next(pid for pid, name in processes(process.pid) if name.startswith("ray::Worker"))
    os.kill(worker, signal.SIGKILL)
    until(lambda: n_records() >= 6, process)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    stdout, stderr = process.communicate(timeout=60)
    before = n_records()
    assert (process.returncode, stdout) == (130, b""), stderr
    assert b"was killed or crashed; it is started again" in stderr
    assert f"{20 - before} of 20 rows are left; the same command goes on" in stderr.decode()
    # Ray and its files are gone
    assert list(processes(process.pid)) == []
    assert os.listdir(temporary) == []
    assert sorted(os.listdir(here)) == lay
    os.rmdir(temporary)

    process = start()
    stdout, stderr = process.communicate(timeout=60)
    assert (process.returncode, stdout) == (0, b""), stderr
    assert f"20 of 20 rows done ({before} were there), 0 failed" in stderr.decode()
    assert len(records(out)) == len(ROWS)
    batch(model, rows, alone, n_parallel=1)
    assert by_id(out) == by_id(alone)
