"""Let many clients talk to ``scope serve`` for minutes, and watch answers, memory and cells.

    python scripts/soak_serve.py [MODEL.gguf] [--minutes 5] [--clients 64] [-np 8] [--cells 4096]

The server is a process of its own. Each client asks, again and again, one of --samples sheets of
the reference task, which were answered before, one at a time; streamed or not, greedy. Some leave
in the middle of an answer, some say what the server must refuse. The exit status is 1 if an answer
was lost or differs from that of the quiet server (as it would with another client's text in it), a
refusal was none, cells were above the capacity or are left at the end, the resident memory grew
by more than --growth MiB after a third of the time, or the server did not end in order.
"""

from __future__ import annotations

import argparse
import http.client
import sys
import threading
import time
from pathlib import Path

from scope_cpp.reference.shipped import model_path
from scope_cpp.reference.task import make_samples
from soaking.clients import Seen, ask, body_of, client
from soaking.server import Server, serve, wait

MIB = 2**20


def watch(server: Server, until: float, seen: Seen) -> None:
    """Look at memory and cells until the time is over."""
    began = time.monotonic()
    while time.monotonic() < until:
        try:
            told = server.metrics()
        except (OSError, http.client.HTTPException) as err:
            seen.faults.append(f"/metrics: {err}")
            return
        used, capacity = int(told["scope_cells_used"]), told["scope_cells_capacity"]
        seen.cells = max(seen.cells, used)
        if used > capacity:
            seen.faults.append(f"{used} cells were in use, the capacity is {capacity:g}")
        seen.rss.append((time.monotonic() - began, server.rss()))
        time.sleep(1)


def check_end(server: Server, args: argparse.Namespace, seen: Seen) -> dict[str, float]:
    """Wait until no row is left; return the last metrics."""

    def idle() -> bool:
        told = server.metrics()
        return told["scope_rows_running"] == told["scope_rows_waiting"] == 0

    try:
        wait(idle, 60, "rows of clients that left still run")
    except SystemExit as err:
        seen.faults.append(str(err))
    told = server.metrics()
    if told["scope_cells_used"] > args.resting:
        seen.faults.append(f"{told['scope_cells_used']:g} cells are left without a row")
    return told


def memory_growth(seen: Seen) -> float:
    """MiB between the most of the second third of the time and the most of the last."""
    if len(seen.rss) < 6:
        return 0.0
    third = len(seen.rss) // 3
    middle = max(rss for _, rss in seen.rss[third : 2 * third])
    return (max(rss for _, rss in seen.rss[2 * third :]) - middle) / MIB


def quantile(values: list[float], share: float) -> float:
    """Return the smallest value that this share of them does not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else float("nan")


def table(seen: Seen, told: dict[str, float], seconds: float) -> str:
    """Describe a run in a few lines."""
    counts = seen.counts
    rates = told["scope_generated_tokens_total"] / seconds
    rss = [value / MIB for _, value in seen.rss] or [float("nan")]
    return "\n".join(
        [
            f"answers   {counts['answered']:,} whole, {counts['left']:,} cut by the client, "
            f"{counts['refused']:,} wrong requests refused",
            f"faults    {counts['lost']} lost, {counts['mixed']} mixed",
            f"latency   p50 {quantile(seen.seconds, 0.5):.2f} s, "
            f"p99 {quantile(seen.seconds, 0.99):.2f} s; first text "
            f"p50 {quantile(seen.first, 0.5):.2f} s, p99 {quantile(seen.first, 0.99):.2f} s",
            f"tokens    {rates:.0f} generated per second, all clients together",
            f"cells     at most {seen.cells:,} of {told['scope_cells_capacity']:,.0f}; "
            f"{told['scope_cells_used']:.0f} at the end; "
            f"{told['scope_cells_evicted_total']:,.0f} evicted",
            f"memory    {rss[0]:.0f} MiB at first, {max(rss):.0f} at most, {rss[-1]:.0f} at the "
            f"end; {memory_growth(seen):+.1f} from the second third of the time to the last",
        ]
    )


def soak(args: argparse.Namespace, seen: Seen) -> str:
    """Run everything; return the table."""
    samples = make_samples("hubs", args.samples, args.seed, args.questions, 24, 4)
    prompts = [sample.prompt.removesuffix("Answers:\n").strip() for sample in samples]
    flags = ["-np", str(args.parallel), "--cells", str(args.cells), "-t", str(args.threads)]
    flags += ["--queue", str(args.clients), "--prefix-cache", str(args.resting), *args.flag]
    with serve(args.model, flags, seen.faults) as server:
        sheets = {prompt: "".join(ask(server, body_of(prompt, args, False))) for prompt in prompts}
        if len(set(sheets.values())) < len(sheets):
            seen.faults.append("sheets have the same answer: a mixed one would not be seen")
        until = time.monotonic() + 60 * args.minutes
        common = (server, sheets, args, until, seen)
        threads = [threading.Thread(target=client, args=(n, *common)) for n in range(args.clients)]
        threads.append(threading.Thread(target=watch, args=(server, until, seen)))
        began = time.monotonic()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        seconds = time.monotonic() - began
        told = check_end(server, args, seen)
    return table(seen, told, seconds)


def main(argv: list[str] | None = None) -> int:
    """Run, print the table and return the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path, nargs="?", default=model_path())
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("-np", "--parallel", type=int, default=8)
    parser.add_argument("--cells", type=int, default=4096, help="of the server")
    parser.add_argument("--budget", type=int, default=144, help="cells of prompt and answer")
    parser.add_argument("--tokens", type=int, default=160, help="longest answer")
    parser.add_argument("--questions", type=int, default=8, help="of a sheet; 18 tokens each")
    parser.add_argument("--samples", type=int, default=24, help="different sheets")
    parser.add_argument("--leave", type=float, default=0.1, help="share cut by the client")
    parser.add_argument("--wrong", type=float, default=0.05, help="share that must be refused")
    parser.add_argument("--resting", type=int, default=0, help="cells for prompts that rest")
    parser.add_argument("--growth", type=float, default=8.0, help="MiB of memory")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--flag", action="append", default=[], help="another flag of scope serve")
    args = parser.parse_args(argv)
    seen = Seen()
    print(soak(args, seen))
    grown = memory_growth(seen)
    if grown > args.growth:
        seen.faults.append(f"memory grew by {grown:.1f} MiB, allowed are {args.growth:g}")
    for line in seen.faults[:20]:
        print(f"fault: {line}")
    return 1 if seen.faults else 0


if __name__ == "__main__":
    sys.exit(main())
