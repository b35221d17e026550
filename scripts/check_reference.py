"""Check a reference model through the engine: its gates, or the tables of its model card.

    python scripts/check_reference.py MODEL.gguf gates [-n 6]
    python scripts/check_reference.py MODEL.gguf tables [-n 8]
    python scripts/check_reference.py MODEL.gguf chats [-n 80]

The gates use a held-out seed on which choices may rest, the tables another one.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from reference_training.evaluate import (
    FULL,
    GATE_SEED,
    PUBLISHED_SEED,
    ROWS,
    conversations,
    evaluate,
    gates,
)
from scope_cpp.reference.task import MIXES, Size

SIZES = (Size(4, 8, 2), Size(24, 40, 12), Size(48, 64, 26), Size(96, 128, 50), Size())


def check(path: Path, n: int, progress: Progress) -> bool:
    """Print the gates; say whether all are passed."""
    bar = progress.add_task("gates", total=n * len(ROWS) * len(MIXES))
    results = evaluate(path, ROWS, Size(), n, GATE_SEED, lambda: progress.advance(bar))
    found = gates(results)
    for name, passed, figure in found:
        print(f"{'pass' if passed else 'FAIL'}  {name}: {figure}")
    return all(passed for _, passed, _ in found)


def tables(path: Path, n: int, progress: Progress) -> None:
    """Print the accuracy under the full cache, by size and mix, as Markdown."""
    bar = progress.add_task("tables", total=n * len(SIZES) * len(MIXES))
    print("| questions, facts | tokens of output | mix | right | direct | referring | quarters |")
    print("|---|---|---|---|---|---|---|")
    for size in SIZES:
        results = evaluate(path, [FULL], size, n, PUBLISHED_SEED, lambda: progress.advance(bar))
        for (_, mix), result in results.items():
            shares = (result.accuracy, *result.split())
            figures = " | ".join(f"{share:.4f}" for share in shares)
            quarters = " ".join(f"{share:.3f}" for share in result.quarters())
            shown = f"{size.questions}, {size.facts} | {18 * size.questions}"
            print(f"| {shown} | {mix} | {figures} | {quarters} |", flush=True)


def chats(path: Path, n: int, progress: Progress) -> None:
    """Print how many turns of conversations are answered exactly, as Markdown."""
    bar = progress.add_task("chats", total=n)
    print("| turn | it holds | exact |")
    print("|---|---|---|")
    found = conversations(path, n, lambda: progress.advance(bar))
    for (place, holds), count in sorted(found.items()):
        print(f"| {place} | {holds} | {count.right} of {count.all} |")


def main() -> None:
    """Run what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("what", choices=("gates", "tables", "chats"))
    parser.add_argument("-n", type=int, default=6, help="samples of each mix, or chats")
    args = parser.parse_args()
    with Progress(console=Console(stderr=True)) as progress:
        if args.what == "tables":
            tables(args.model, args.n, progress)
        elif args.what == "chats":
            chats(args.model, args.n, progress)
        elif not check(args.model, args.n, progress):
            sys.exit(1)


if __name__ == "__main__":
    main()
