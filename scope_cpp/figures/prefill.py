"""Accuracy against the prefill budget: what it costs to keep less of the prompt."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from scope_cpp.engine.budget import parse_budget
from scope_cpp.engine.settings import Settings
from scope_cpp.errors import UsageError
from scope_cpp.eval.metrics import is_full
from scope_cpp.eval.rows import is_part
from scope_cpp.figures.budget import Budget, line_of
from scope_cpp.figures.runs import Record, Run


@dataclass(frozen=True)
class Prefill(Budget):
    """Scores by rows that are kept of the prompt, a line for each prefill × decode method."""

    name: ClassVar[str] = "prefill"

    @property
    def title(self) -> str:
        """Says what is drawn."""
        return f"{self.measure.heading} against the prefill budget, with 95% intervals"


def prefill(run: Run) -> Prefill:
    """Take the scores at what each row keeps of its prompt, from one run or several as one.

    A row that keeps the prompt whole ends the lines of its decode method.

    Raises
    ------
    UsageError
        If no method was run with two prefill budgets, or it can't be said what a prompt kept.
    """
    lengths = _prompt_lengths(run)
    compressed: dict[tuple[str, str], dict[float, Record]] = {}
    whole: dict[str, tuple[float, Record]] = {}
    full = None
    for record in run.records:
        prompts = lengths[record["row"]]
        kept = sum(prompt_rows(record, n) for n in prompts) / len(prompts)
        if is_full(record):
            full = full or record
        if record["prefill"] == "full":
            whole.setdefault(record["policy"], (kept, record))
            continue
        same = compressed.setdefault((record["prefill"], record["policy"]), {})
        if kept in same:
            raise UsageError(
                f"rows {same[kept]['row']!r} and {record['row']!r} both keep {kept:g} rows of the "
                "prompt: draw runs that differ in the prefill budget only"
            )
        same[kept] = record
    if max(map(len, compressed.values()), default=0) < 2:
        raise UsageError(
            f"{run.path}: no prefill method was run with two sizes: give 'scope eval run' "
            '--row "snapkv 32: --prefill snapkv -o alpha1=32", and a row for each other size'
        )
    lines = []
    for number, ((name, policy), same) in enumerate(compressed.items(), start=1):
        ends = dict([whole[policy]] if policy in whole else [])
        lines.append(line_of(f"{name}, decode {policy}", number, ends | same))
    all_lengths = [n for found in lengths.values() for n in found]
    shortest, longest = min(all_lengths), max(all_lengths)
    told = f"prompts of {shortest}{'' if shortest == longest else f' to {longest}'} tokens"
    axis = "rows of the prompt that a layer keeps, in the mean"
    return Prefill(run.describe(told), axis, tuple(lines), full, run.measure)


def prompt_rows(record: Record, n_prompt: int) -> int:
    """Return how many rows a layer keeps of a prompt of `n_prompt` tokens, in the mean.

    Raises
    ------
    UsageError
        If neither the row's options nor its budget say it.
    """
    options = tuple(option for option in record["options"] if not is_part(option))
    settings = Settings(policy=record["policy"], prefill=record["prefill"], options=options)
    policy = settings.policies()[1]
    if not policy.sized:
        policy = policy.resolve(_budget(record, n_prompt), n_prompt)
    return policy.rows(n_prompt)


def _budget(record: Record, n_prompt: int) -> int:
    if isinstance(record["beta"], int):
        return n_prompt + record["beta"]
    asked = parse_budget(record["asked_budget"])
    if asked.kind != "cells":
        raise UsageError(
            f"row {record['row']!r} does not say how much of a prompt it keeps: name its size with "
            "-o, or a budget in cells"
        )
    return int(asked.value)


def _prompt_lengths(run: Run) -> dict[str, list[int]]:
    lengths: dict[str, list[int]] = {}
    for prediction in run.samples:
        lengths.setdefault(prediction.row, []).append(int(prediction.stats["n_prompt"]))
    return lengths
