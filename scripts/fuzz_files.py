"""Run ``scope`` on damaged GGUF files: none may end it by a signal, hang it, or make it babble.

``fuzz_files.py`` damages the reference model, tiny ones of every architecture and vocabulary, and
those given with ``--base``; it runs a sample of what comes of it, or with ``--all`` everything,
which takes hours. ``--files FOLDER`` runs the files of a folder instead.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from fuzzing.bases import bases
from fuzzing.gguf import parse
from fuzzing.mutations import Mutation, mutations
from fuzzing.runs import COMMANDS, Run, compile_sources, run, summary


def main() -> int:
    """Run from the command line; return 1 if anything was wrong."""
    args = _arguments()
    compile_sources()
    with tempfile.TemporaryDirectory(prefix="scope-fuzz-") as name:
        folder = args.keep or Path(name)
        folder.mkdir(parents=True, exist_ok=True)
        files = sorted(args.files.iterdir()) if args.files else _written(args, folder)
        with ThreadPoolExecutor(args.jobs) as pool:
            keep = args.keep or args.files
            runs = [one for some in pool.map(lambda file: _run(file, keep), files) for one in some]
    print(summary(runs))
    return int(any(one.offences() for one in runs))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Run scope on damaged GGUF files.")
    parser.add_argument("--base", type=Path, nargs="*", default=[], help="GGUF files to damage too")
    parser.add_argument("--files", type=Path, help="folder of damaged files to run instead")
    parser.add_argument("--sample", type=int, default=200, help="damaged files of all")
    parser.add_argument("--all", action="store_true", help="run all of them")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2, help="commands at once")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="leave the files there")
    return parser.parse_args()


def _written(args: argparse.Namespace, folder: Path) -> Iterator[Path]:
    """Write each file when its turn has come."""
    with tempfile.TemporaryDirectory(prefix="scope-fuzz-") as scratch:
        found = bases(Path(scratch))
    found |= {path.stem: parse(path.read_bytes()) for path in args.base}
    every = [(name, one) for name, base in found.items() for one in mutations(base, args.seed)]
    chosen = every if args.all else random.Random(args.seed).sample(every, args.sample)
    print(f"{len(chosen)} of {len(every)} damaged files of {len(found)} good ones", flush=True)
    for number, (name, mutation) in enumerate(chosen):
        yield _write(folder / f"{number:05}-{name}-{_slug(mutation)}.gguf", mutation)


def _slug(mutation: Mutation) -> str:
    return "".join(char if char.isalnum() else "-" for char in mutation.name)[:60]


def _write(path: Path, mutation: Mutation) -> Path:
    path.write_bytes(mutation.make())
    return path


def _run(file: Path, keep: Path | None) -> Iterable[Run]:
    runs = [run(file, command) for command in COMMANDS]
    for one in runs:
        for offence in one.offences():
            print(f"{one.command[0]} {file.name}: {offence}", flush=True)
    if keep is None:
        file.unlink()
    return runs


if __name__ == "__main__":
    sys.exit(main())
