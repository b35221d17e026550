"""Run folders with answers that are known: what figures are made of, without a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from scope_cpp.engine.settings import Settings
from scope_cpp.eval.fidelity.divergence import Divergence
from scope_cpp.eval.folder import RunFolder
from scope_cpp.eval.metrics import summarize
from scope_cpp.eval.record import Prediction
from scope_cpp.eval.rows import Row
from scope_cpp.eval.task import Output, Score
from scope_cpp.eval.tasks import find

Answers = Sequence[Sequence[float]]

N_PROMPT = 100
N_WRITTEN = 50


def row(name: str, beta: int | str | None = None, label: str = "", **settings: Any) -> Row:
    """A row whose policy is its name, unless another is named."""
    policy = settings.pop("policy", name)
    return Row(name, Settings(policy=policy, **settings), beta, (), label or name)


def make_run(
    path: Path,
    answers: Mapping[Row, Answers],
    *,
    task: str = "reference",
    model: str = "a.gguf",
    seconds: float = 2.0,
    complete: bool = True,
    **config: Any,
) -> Path:
    """Write the folder of a run in which each row gave these answers, sample by sample."""
    rows = list(answers)
    scorer = find(task).scorers[0]
    folder = RunFolder.create(
        path,
        {
            "model": {"name": model, "sha256_of_ends": model},
            "task": task,
            "items": {"n": max(map(len, answers.values())), "sha256": "0"},
            "task_options": [],
            "data": None,
            "limit": None,
            "seed": 0,
            "template": False,
            "temp": 0.0,
            "log_samples": False,
            "versions": {},
            "command": [],
            "rows": [r.to_json() for r in rows],
            **config,
        },
    )
    predictions = [
        Prediction(
            r.name, f"item-{i}", "", f"{i:016x}",
            output=_output(task, right),
            scores={
                name: Score(tuple(right), sum(right) / len(right)) for name in find(task).scorers
            },
            stats=_stats(r, seconds), loop=0,
        )
        for r, samples in answers.items() for i, right in enumerate(samples)
    ]  # fmt: skip
    with folder.writing() as writer:
        for prediction in predictions:
            writer.append(prediction)
    records = summarize(find(task), [], rows, predictions, scorer, seed=0)
    folder.write_metrics({"task": task, "scorer": scorer, "complete": complete, "rows": records})
    return path


def _output(task: str, values: Sequence[float]) -> Output:
    if not find(task).compares:
        return Output("text", N_WRITTEN, "stop")
    same, nothing = (1,) * len(values), (0.0,) * len(values)
    return Output("", 0, "forced", (), Divergence(tuple(values), same, nothing, 0))


def _stats(of: Row, seconds: float) -> dict[str, float]:
    cells = N_PROMPT + (of.beside(N_WRITTEN) or N_WRITTEN)
    return {
        "n_prompt": N_PROMPT,
        "n_generated": N_WRITTEN,
        "generation_seconds": seconds,
        "cells_capacity": cells,
        "cells_seen": cells,
        "cells_used": cells,
        "cells_allocated": 256,
        "kv_bytes": cells * 1024,
        "evicted": 0,
        "selections": 0,
        "attention_loss": 0.0,
    }
