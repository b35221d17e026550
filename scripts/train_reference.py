"""Train the reference model and write it as GGUF.

    python scripts/train_reference.py --seed 1 --minutes 45 --out model.gguf [--device cuda]

Needs PyTorch (pip install "scope-cpp[train]"). A run that was stopped goes on from its checkpoint
with the same command. The file's logits under llama.cpp are compared with PyTorch's at the end;
scripts/check_reference.py then says whether the model may be shipped.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from reference_training.curriculum import LEVELS
from reference_training.export import Provenance, logit_differences, write_gguf
from reference_training.model import Shape
from reference_training.train import Options, Trainer, train
from scope_cpp.reference.task import make_samples
from scope_cpp.reference.vocabulary import TOKENS

# Largest difference of a logit (they reach 30): an F16 model computed in F32, in another order.
TOLERANCE = 0.3
SAMPLE = {"mix": "hubs", "n": 1, "seed": 99, "n_questions": 48, "n_facts": 64, "n_filler": 26}


def arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=1)
    length = parser.add_mutually_exclusive_group(required=True)
    length.add_argument("--minutes", type=float, help="minutes of training")
    length.add_argument("--tokens", type=float, help="tokens of training, such as 12e6")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--threads", type=int, default=1, help="threads of the CPU")
    parser.add_argument("--fp32", action="store_true", help="no bfloat16 (older CPUs)")
    parser.add_argument("--out", type=Path, required=True, help="GGUF file to write")
    parser.add_argument("--checkpoint", type=Path, help="default: the GGUF's name with .pt")
    return parser.parse_args()


def run(trainer: Trainer, console: Console) -> None:
    """Train with a progress bar, a line for each level."""
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=console) as progress:
        bar = progress.add_task("", total=1.0)
        level = -1

        def report(trainer: Trainer) -> None:
            nonlocal level
            state = trainer.curriculum
            if state.level > level:
                level = state.level
                console.print(
                    f"{trainer.tokens / 1e6:6.2f}M tokens: level {level}, {LEVELS[level]}"
                )
            shown = f"level {level}, worst {state.worst:.3f}, loss {trainer.loss:.3f}"
            progress.update(bar, completed=trainer.progress, description=shown)

        train(trainer, report)


def main() -> None:
    """Train, write, compare."""
    args = arguments()
    if args.device == "cpu":
        torch.set_num_threads(args.threads)
    options = Options(
        seed=args.seed,
        device=args.device,
        checkpoint=args.checkpoint or args.out.with_suffix(".pt"),
        minutes=args.minutes,
        tokens=None if args.tokens is None else int(args.tokens),
        bf16=not args.fp32,
    )
    trainer = Trainer(Shape(vocab=len(TOKENS)), options)
    console = Console()
    if options.checkpoint.exists():
        trainer.load()
        console.print(f"going on from {options.checkpoint}, step {trainer.step}")
    run(trainer, console)
    model = trainer.model.cpu().eval()
    write_gguf(args.out, model, Provenance(args.seed, trainer.tokens, trainer.seconds / 60))
    console.print(f"wrote {args.out}: {args.out.stat().st_size / 1e6:.2f} MB")
    compare(args.out, trainer)


def compare(path: Path, trainer: Trainer) -> None:
    """Print how far llama.cpp is from PyTorch; end with an error if too far."""
    (sample,) = make_samples(**SAMPLE)  # type: ignore[arg-type]
    differences = logit_differences(path, trainer.model, sample.prompt + sample.expected)
    for flash, (largest, same) in differences.items():
        print(f"flash attention {flash}: logits differ by {largest:.3f}, same choice {same:.4%}")
    if max(largest for largest, _ in differences.values()) > TOLERANCE:
        sys.exit(f"llama.cpp and PyTorch differ by more than {TOLERANCE}: the file is not right")


if __name__ == "__main__":
    main()
