"""Answers right under each policy at equal cells, through the real `scope generate` command.

    python scripts/quality_table.py MODEL.gguf SAMPLES.jsonl [--beta 48 96 192] [--kv f16 q8_0]

Each line of SAMPLES has `prompt`, `mix` and `answers` (digits); an answer is the digit after
". A<i>=" in the output. A run's budget is the prompt's tokens and beta cells, prompt and output
together; the cells in the table are the most that llama.cpp's cache held.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

Row = dict[str, Any]

CONFIGS = {
    "slide, per head": ["--policy", "scope-slide"],
    "slide, whole cells": ["--policy", "scope-slide", "--granularity", "cell"],
    "slide every 16, per head": ["--policy", "scope-slide", "-o", "interval=16"],
    "slide every 16, whole cells": [
        *("--policy", "scope-slide", "-o", "interval=16", "--granularity", "cell")
    ],
    "adaptive, per head": ["--policy", "scope-adaptive"],
    "discontinuous, per head": ["--policy", "scope-discontinuous"],
    "discontinuous, whole cells": ["--policy", "scope-discontinuous", "--granularity", "cell"],
    "slide, last query only": ["--policy", "scope-slide", "-o", "score=last"],
    "H2O (recent = beta/2)": ["--policy", "h2o", "-o", "recent={half}"],
    "StreamingLLM": ["--policy", "streaming-llm"],
}


def accuracy(text: str, answers: list[int]) -> float:
    """Share of the answers that the text states."""
    stated = dict(re.findall(r"\. ?A(\d+)=(\d)", text))
    right = sum(stated.get(str(i)) == str(answer) for i, answer in enumerate(answers, start=1))
    return right / len(answers)


def scope(model: str, prompt: str, n_predict: int, flags: list[str]) -> Row:
    """Run the command and return its JSON."""
    command = ["scope", "generate", model, "-f", "-", "-n", str(n_predict), "--temp", "0"]
    done = subprocess.run(
        [*command, "-t", "1", "--json", *flags], input=prompt, capture_output=True, text=True
    )
    if done.returncode != 0:
        sys.exit(done.stderr.strip())
    result: Row = json.loads(done.stdout)
    return result


def evaluate(
    args: argparse.Namespace, samples: list[Row], beta: int | None, flags: list[str]
) -> Row:
    """Run all samples with one configuration: accuracy by mix, cells, refusals."""

    def one(sample: Row) -> tuple[str, float, Row]:
        budget = [] if beta is None else ["--budget", str(sample["n_prompt"] + beta)]
        result = scope(args.model, sample["prompt"], args.n_predict, [*budget, *flags])
        sample.setdefault("n_prompt", result["usage"]["prompt_tokens"])
        over = result["cells_peak"] - (sample["n_prompt"] + beta) if beta else 0
        if over > 0:
            sys.exit(f"{over} cells over the budget: {flags}")
        return sample["mix"], accuracy(result["text"], sample["answers"]), result

    by_mix: dict[str, list[float]] = defaultdict(list)
    last: Row = {}
    with ThreadPoolExecutor(args.jobs) as pool:
        for mix, score, result in pool.map(one, samples):
            by_mix[mix].append(score)
            last = result
    return {mix: sum(scores) / len(scores) for mix, scores in by_mix.items()} | {"last": last}


def main() -> None:
    """Print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("samples", type=Path)
    parser.add_argument("--beta", type=int, nargs="+", default=[48, 96, 192])
    parser.add_argument("--kv", nargs="+", default=["f16"])
    parser.add_argument("--only", help="configurations whose name contains this")
    parser.add_argument("-n", "--n-predict", type=int, default=885)
    parser.add_argument("--jobs", type=int, default=1)
    args = parser.parse_args()
    samples = [json.loads(line) for line in args.samples.read_text().splitlines()]
    mixes = sorted({sample["mix"] for sample in samples}, reverse=True)
    print(f"| KV | beta | policy | {' | '.join(mixes)} | cells, most | kept | selections |")
    print("|---" * (6 + len(mixes)) + "|")
    for kv in args.kv:
        types = ["-ctk", kv, "-ctv", kv]
        report(kv, "", "full", evaluate(args, samples, None, [*types, "--policy", "full"]), mixes)
        for beta in args.beta:
            for name, flags in CONFIGS.items():
                if args.only and args.only not in name:
                    continue
                filled = [flag.format(half=beta // 2) for flag in flags]
                report(kv, beta, name, evaluate(args, samples, beta, [*types, *filled]), mixes)


def report(kv: str, beta: int | str, name: str, row: Row, mixes: list[str]) -> None:
    """Print one row."""
    last = row["last"]
    scores = " | ".join(f"{row[mix]:.3f}" for mix in mixes)
    print(
        f"| {kv} | {beta} | {name} | {scores} | {last['cells_peak']} | "
        f"{last['cells_used']} of {last['cells_used'] + last['evicted']} | {last['selections']} |",
        flush=True,
    )


if __name__ == "__main__":
    main()
