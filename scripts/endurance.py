"""Generate without end in a bounded cache, and watch cells, memory, speed and logits.

    python scripts/endurance.py MODEL.gguf [--tokens 1000000] [--cells 512] [--log FILE.jsonl]

The prompt is the text of --prompt (of a .jsonl file the field `prompt` of its first line), or
64 tokens drawn at random. After every token llama.cpp is asked how many cells are in use, and the
logits are looked at; a line of the log tells of --every tokens. The exit status is 1 if cells were
ever above the capacity, a logit was not finite, or the resident memory grew by more than --growth
MiB after the first --warm-up tokens. Speed is reported, not judged.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import time
import zlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TextIO

import numpy as np

from scope_cpp.engine.generate import Generation
from scope_cpp.engine.model import Model
from scope_cpp.engine.sampling import SamplingParams
from scope_cpp.engine.settings import Settings
from scope_cpp.native import kv_evict

MIB = 2**20


@dataclass(frozen=True, slots=True)
class Interval:
    """What was seen in some tokens; a line of the log.

    Attributes
    ----------
    tokens, written
        Tokens generated when it ended, and in it.
    position
        Newest position in the cache at its end; the last token is not decoded yet.
    cells
        Most cells in use after any of its tokens, as llama.cpp counts them.
    not_finite
        Tokens whose logits had a NaN or an infinity.
    rss
        Resident bytes of the process at its end.
    seconds, cpu_seconds
        Time that it took, by the clock and of the processor. Where others use the machine, the
        second tells more.
    attention_loss, evicted
        Of the whole generation so far.
    checksum
        CRC-32 of all tokens so far: two runs that agree wrote the same tokens.
    """

    tokens: int
    written: int
    position: int
    cells: int
    not_finite: int
    rss: int
    seconds: float
    cpu_seconds: float
    attention_loss: float
    evicted: int
    checksum: int


def watch(generation: Generation, every: int) -> Iterator[Interval]:
    """Run a generation to its end; one `Interval` for each `every` tokens, and for the rest."""
    ptr = generation.context.ptr
    tokens = before = cells = not_finite = checksum = 0
    wall, cpu = time.perf_counter(), time.process_time()
    for response in generation:
        tokens += 1
        cells = max(cells, kv_evict.n_used(ptr))
        not_finite += not np.isfinite(generation.context.logits()).all()
        checksum = zlib.crc32(str(response.token).encode() + b" ", checksum)
        if tokens % every and response.finish_reason is None:
            continue
        stats, now, cpu_now = generation.stats, time.perf_counter(), time.process_time()
        yield Interval(
            tokens=tokens,
            written=tokens - before,
            position=int(kv_evict.cells(ptr, 0)[0][-1]),
            cells=cells,
            not_finite=not_finite,
            rss=rss_bytes(),
            seconds=now - wall,
            cpu_seconds=cpu_now - cpu,
            attention_loss=stats.attention_loss,
            evicted=stats.evicted,
            checksum=checksum,
        )
        before, cells, not_finite = tokens, 0, 0
        wall, cpu = now, cpu_now


def rss_bytes() -> int:
    """Resident memory of this process now, not at its peak."""
    statm = Path("/proc/self/statm")
    if statm.exists():
        return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    command = ["ps", "-o", "rss=", "-p", str(os.getpid())]
    return int(subprocess.run(command, capture_output=True, check=True).stdout) * 1024


def growth(intervals: list[Interval], warm_up: int) -> int:
    """Bytes by which the memory at the end exceeds that after `warm_up` tokens."""
    warm = next((seen for seen in intervals if seen.tokens >= warm_up), intervals[-1])
    return intervals[-1].rss - warm.rss


def faults(intervals: list[Interval], capacity: int, warm_up: int, most: int) -> list[str]:
    """What must not have happened, one line each."""
    found = []
    cells = max(seen.cells for seen in intervals)
    if cells > capacity:
        found.append(f"{cells} cells were in use, the capacity is {capacity}")
    not_finite = sum(seen.not_finite for seen in intervals)
    if not_finite:
        found.append(f"the logits of {not_finite} tokens were not finite")
    grown = growth(intervals, warm_up)
    if grown > most:
        found.append(f"memory grew by {grown} bytes after {warm_up} tokens, allowed are {most}")
    return found


def summary(intervals: list[Interval], capacity: int, warm_up: int) -> str:
    """Describe a run in a few lines."""
    last, tenth = intervals[-1], max(1, len(intervals) // 10)
    warm = last.rss - growth(intervals, warm_up)
    highest = max(seen.rss for seen in intervals if seen.tokens >= min(warm_up, last.tokens))
    return "\n".join(
        [
            f"tokens          {last.tokens:,}, newest position {last.position:,}",
            f"cells           at most {max(s.cells for s in intervals)} of {capacity}",
            f"evicted         {last.evicted:,}, attention loss {last.attention_loss:.4f}",
            f"not finite      {sum(seen.not_finite for seen in intervals)}",
            f"memory          {warm / MIB:.2f} MiB after {warm_up:,} tokens, "
            f"{last.rss / MIB:.2f} at the end, at most {highest / MIB:.2f}",
            f"speed, first    {_speed(intervals[:tenth])}",
            f"speed, last     {_speed(intervals[-tenth:])}",
            f"time            {sum(seen.seconds for seen in intervals):.0f} s, "
            f"of the processor {sum(seen.cpu_seconds for seen in intervals):.0f} s",
            f"checksum        {last.checksum:08x}",
        ]
    )


def _speed(intervals: list[Interval]) -> str:
    """Tokens per second of some intervals: medians and ranges."""
    wall = sorted(seen.written / seen.seconds for seen in intervals)
    cpu = sorted(seen.written / seen.cpu_seconds for seen in intervals)
    return (
        f"median {statistics.median(wall):.0f} t/s ({wall[0]:.0f} to {wall[-1]:.0f}), "
        f"{statistics.median(cpu):.0f} per second of the processor ({cpu[0]:.0f} to {cpu[-1]:.0f})"
    )


def read_prompt(path: Path) -> str:
    """Return the text of a file; of a .jsonl file the field `prompt` of its first line."""
    text = path.read_text(encoding="utf-8")
    return str(json.loads(text.splitlines()[0])["prompt"]) if path.suffix == ".jsonl" else text


def random_prompt(model: Model, seed: int, n: int = 64) -> list[int]:
    """Draw tokens that do not end a generation."""
    valid = [token for token in range(model.n_vocab) if token not in model.eog_tokens]
    return [int(token) for token in np.random.default_rng(seed).choice(valid, n)]


def run(args: argparse.Namespace, log: TextIO | None) -> tuple[list[Interval], int]:
    """Generate; return the intervals and the capacity in cells."""
    settings = Settings(
        policy=args.policy,
        options=tuple(args.option),
        granularity=args.granularity,
        budget=args.cells,
        n_threads=args.threads,
        n_threads_batch=args.threads,
    )
    with Model.load(args.model, n_gpu_layers=0) as model:
        text = None if args.prompt is None else read_prompt(args.prompt)
        generation = Generation(
            model,
            random_prompt(model, args.seed) if text is None else text,
            n_predict=args.tokens,
            settings=settings,
            sampling=SamplingParams(temp=args.temp, seed=args.seed, ignore_eos=True),
            warn=lambda line: print(line, file=sys.stderr),
        )
        intervals = []
        with generation:
            for seen in watch(generation, args.every):
                intervals.append(seen)
                if log is not None:
                    print(json.dumps(asdict(seen)), file=log, flush=True)
            return intervals, generation.sizes.capacity


def main(argv: list[str] | None = None) -> int:
    """Run, print the summary and return the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path)
    parser.add_argument("--tokens", type=int, default=1_000_000)
    parser.add_argument("--cells", type=int, default=512, help="prompt and output together")
    parser.add_argument("--policy")
    parser.add_argument("-o", "--option", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--granularity", default="head", choices=("head", "cell"))
    parser.add_argument("--prompt", type=Path, metavar="FILE")
    parser.add_argument("--temp", type=float, default=0.8)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--every", type=int, default=10_000, help="tokens for one line of the log")
    parser.add_argument("--warm-up", type=int, default=10_000, help="tokens before memory counts")
    parser.add_argument("--growth", type=float, default=1.0, help="MiB allowed after them")
    parser.add_argument("--log", type=Path, metavar="FILE.jsonl")
    args = parser.parse_args(argv)
    with contextlib.ExitStack() as opened:
        log = opened.enter_context(args.log.open("w")) if args.log else None
        intervals, capacity = run(args, log)
    print(summary(intervals, capacity, args.warm_up))
    found = faults(intervals, capacity, args.warm_up, int(args.growth * MIB))
    for line in found:
        print(f"fault: {line}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
