"""Kill ``scope batch`` again and again, and compare what it left with an undisturbed run.

    python scripts/soak_batch.py [MODEL.gguf] [--kills 200] [--minutes 20] [--rows 10] [-np 4]

A run is started, killed (``kill -9``) at a random moment, started again, and so on until it ends;
then the next one begins, until there were enough kills or the time is over. Half of the moments are
drawn from the time that an undisturbed run takes, half are that of a write. Some of the files get
half a record, as a power cut would leave it. After each kill no finished record may be gone; at the
end of each run every row has one record, with the text of the undisturbed run. With --full (the
user must be able to mount) a run is made on a file system that fills up: it must end with one clear
line and keep its records, and finish when there is room.
The exit status is 1 if anything is wrong.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from scope_cpp import child
from scope_cpp.reference.shipped import model_path
from scope_cpp.reference.task import make_samples

QUIET = "undisturbed.jsonl"

Records = dict[str, Any]  # by id: what must be the same in every run


@dataclass
class Soak:
    """The input, what is expected, and what was seen.

    Attributes
    ----------
    seconds
        That an undisturbed run takes.
    """

    args: argparse.Namespace
    folder: Path
    source: Path
    rng: random.Random
    expected: Records = field(default_factory=dict)
    seconds: float = 0.0
    faults: list[str] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)

    def start(self, out: Path) -> subprocess.Popen[bytes]:
        """Start a run that goes on with `out`."""
        args = self.args
        command = child.command("scope_cli", "batch", args.model)
        command += ["-i", str(self.source), "-o", str(out), "-np", str(args.parallel)]
        command += ["--budget", str(args.budget), "-n", str(args.tokens), "--temp", "0"]
        command += ["-t", str(args.threads), *args.flag]
        return subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )

    def run(self, out: Path) -> tuple[int, str]:
        """Run to the end; return the status and what was said on stderr."""
        process = self.start(out)
        _, err = process.communicate(timeout=self.args.patience)
        return process.returncode, err.decode(errors="replace")


def read(path: Path, faults: list[str]) -> Records:
    """Return the whole records of a file; a half-written last line is none."""
    found: Records = {}
    for line in whole_lines(path).splitlines():
        try:
            record = json.loads(line)
        except ValueError:
            faults.append(f"{path.name}: a broken line within: {line[:80]!r}")
            continue
        if "id" not in record:
            continue  # what the file says of itself
        if record["id"] in found:
            faults.append(f"{path.name}: {record['id']} twice")
        found[record["id"]] = {key: record.get(key) for key in ("text", "finish_reason", "error")}
    return found


def whole_lines(path: Path) -> bytes:
    """Return what a file holds up to its last line break."""
    data = path.read_bytes() if path.exists() else b""
    return data[: data.rfind(b"\n") + 1]


def check_whole(soak: Soak, path: Path) -> None:
    """A finished run has all records, as the undisturbed one wrote them."""
    found = read(path, soak.faults)
    if missing := soak.expected.keys() - found.keys():
        soak.faults.append(f"{path.name}: {len(missing)} rows have no record")
    for key, record in found.items():
        if record != soak.expected.get(key):
            told = f"{str(record)[:120]} instead of {str(soak.expected.get(key))[:120]}"
            soak.faults.append(f"{path.name}: {key} differs: {told}")
    if not path.read_bytes().endswith(b"\n"):
        soak.faults.append(f"{path.name}: the last line is half")


def interrupt(soak: Soak, out: Path) -> bool:
    """Start a run and kill it at a random moment; whether it had ended before."""
    before = whole_lines(out)
    process = soak.start(out)
    assert process.stderr is not None
    by_write = soak.rng.random() < 0.5
    until = time.monotonic() + (soak.args.patience if by_write else 0)
    until += 0 if by_write else soak.rng.uniform(0, soak.seconds)
    size = _size(out)
    grown = soak.rng.randrange(1, 4000)
    while time.monotonic() < until and process.poll() is None:
        if by_write and _size(out) >= size + grown:
            break
        time.sleep(0.0005 if by_write else 0.005)
    ended = process.poll()
    process.kill()
    err = process.stderr.read().decode(errors="replace")
    process.stderr.close()
    process.wait()
    if not whole_lines(out).startswith(before):
        soak.faults.append(f"{out.name}: finished records are gone or changed after a kill")
    if ended not in (None, 0):
        soak.faults.append(f"{out.name}: a run ended with {ended}: {err[-300:]}")
    soak.counts["kills"] += ended is None
    soak.counts["kills in a write"] += ended is None and by_write
    if ended is None:
        tear(soak, out)
    return ended is not None


def tear(soak: Soak, out: Path) -> None:
    """Leave half a record of a row that is not done yet, sometimes."""
    data = out.read_bytes() if out.exists() else b""
    found = read(out, soak.faults)
    whole = (soak.folder / QUIET).read_bytes().splitlines()
    left = [line for line in whole if json.loads(line).get("id") not in found]
    if data.endswith(b"\n") and left and soak.rng.random() < soak.args.torn:
        line = soak.rng.choice(left)
        out.write_bytes(data + line[: soak.rng.randrange(1, len(line))])
        soak.counts["half lines"] += 1


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def kill_many(soak: Soak, until: float) -> None:
    """Kill until it was enough; each run is finished and compared."""
    while soak.counts["kills"] < soak.args.kills and time.monotonic() < until:
        out = soak.folder / f"{soak.counts['runs']}.jsonl"
        while not interrupt(soak, out):
            enough = soak.counts["kills"] >= soak.args.kills or time.monotonic() >= until
            if enough and soak.run(out)[0] == 0:
                break
            if soak.counts["kills"] > soak.args.kills + 5:
                break
        soak.counts["runs"] += 1
        check_whole(soak, out)
        if soak.faults:
            return


@contextlib.contextmanager
def small_disk(folder: Path, size: str) -> Iterator[None]:
    """Mount a file system of this size."""
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "none", folder], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", folder], check=True)


def fill_disk(soak: Soak) -> str:
    """Run where there is no room, then where there is; return what was said."""
    folder = soak.folder / "small"
    with small_disk(folder, "8k"):
        out = folder / "out.jsonl"
        status, err = soak.run(out)
        before = read(out, soak.faults)
        if status != 1 or "Traceback" in err:
            soak.faults.append(f"a full disk: exit {status}, {err[-300:]}")
        if not 0 < len(before) < len(soak.expected):
            soak.faults.append(f"a full disk: {len(before)} records were kept")
        subprocess.run(["mount", "-o", "remount,size=16m", folder], check=True)
        if soak.run(out)[0] != 0:
            soak.faults.append("the run did not finish when there was room")
        after = read(out, soak.faults)
        if any(after.get(key) != record for key, record in before.items()):
            soak.faults.append("a full disk: records changed")
        check_whole(soak, out)
    lines = [line for line in err.splitlines() if line.strip()]
    return f"{len(before)} records, then: {lines[-1] if lines else 'nothing'}"


def prepare(args: argparse.Namespace, folder: Path) -> Soak:
    """Write the input and make the undisturbed run."""
    source = folder / "in.jsonl"
    samples = make_samples("hubs", args.rows, args.seed, args.questions, 24, 4)
    rows = [{"id": sample.id, "prompt": sample.prompt} for sample in samples]
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    soak = Soak(args, folder, source, random.Random(args.seed))
    quiet = folder / QUIET
    began = time.monotonic()
    status, err = soak.run(quiet)
    soak.seconds = time.monotonic() - began
    soak.expected = read(quiet, soak.faults)
    if status != 0 or len(soak.expected) != args.rows:
        raise SystemExit(f"the undisturbed run ended with {status}: {err[-500:]}")
    return soak


def main(argv: list[str] | None = None) -> int:
    """Run, print the table and return the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path, nargs="?", default=model_path())
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--minutes", type=float, default=20.0, help="most")
    parser.add_argument("--rows", type=int, default=10)
    parser.add_argument("-np", "--parallel", type=int, default=4)
    parser.add_argument("--budget", type=int, default=112, help="cells of a row")
    parser.add_argument("--tokens", type=int, default=90, help="longest output")
    parser.add_argument("--questions", type=int, default=5, help="of a row; 18 tokens each")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--torn", type=float, default=0.2, help="share of files left with half a line"
    )
    parser.add_argument("--patience", type=float, default=300.0, help="seconds for one run")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--full", action="store_true", help="also on a disk that fills up")
    parser.add_argument("--flag", action="append", default=[], help="another flag of scope batch")
    args = parser.parse_args(argv)
    if args.full and os.geteuid() != 0:
        parser.error("--full mounts a small file system: it must be run as root")
    with tempfile.TemporaryDirectory() as name:
        soak = prepare(args, Path(name))
        began = time.monotonic()
        kill_many(soak, began + 60 * args.minutes)
        counts = soak.counts
        print(f"undisturbed  {len(soak.expected)} rows in {soak.seconds:.1f} s")
        print(
            f"killed       {counts['kills']} times in {time.monotonic() - began:.0f} s, "
            f"{counts['kills in a write']} in or after a write; {counts['half lines']} files torn"
        )
        print(f"finished     {counts['runs']} runs, each compared with the undisturbed one")
        if args.full:
            print(f"full disk    {fill_disk(soak)}")
    for line in soak.faults[:20]:
        print(f"fault: {line}")
    return 1 if soak.faults else 0


if __name__ == "__main__":
    sys.exit(main())
