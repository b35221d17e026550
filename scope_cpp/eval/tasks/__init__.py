"""Tasks by name: one file each; add a class to the tuple below."""

from __future__ import annotations

from scope_cpp.errors import UsageError
from scope_cpp.eval.task import Task
from scope_cpp.eval.tasks.countdown import LongProcCountdown
from scope_cpp.eval.tasks.fidelity import Fidelity
from scope_cpp.eval.tasks.gsm8k import GSM8K
from scope_cpp.eval.tasks.html_to_tsv import LongProcHtmlToTsv
from scope_cpp.eval.tasks.longgenbench import (
    LongGenBenchCSQA,
    LongGenBenchGSM8K,
    LongGenBenchMMLU,
)
from scope_cpp.eval.tasks.math500 import MATH500
from scope_cpp.eval.tasks.needle import Needle
from scope_cpp.eval.tasks.perplexity import Perplexity
from scope_cpp.eval.tasks.reference import Reference
from scope_cpp.near import did_you_mean

_TASKS: tuple[type[Task], ...] = (
    Reference,
    LongGenBenchGSM8K,
    LongGenBenchMMLU,
    LongGenBenchCSQA,
    LongProcCountdown,
    LongProcHtmlToTsv,
    GSM8K,
    MATH500,
    Fidelity,
    Needle,
    Perplexity,
)


def tasks() -> dict[str, type[Task]]:
    """Return all tasks by name."""
    return {task.name: task for task in _TASKS}


def find(name: str) -> Task:
    """Return the task of a name.

    Raises
    ------
    UsageError
        There is none; the message lists those there are.
    """
    known = tasks()
    if name not in known:
        raise UsageError(
            f"unknown task {name!r}{did_you_mean(name, known)}: valid are {', '.join(known)}"
        )
    return known[name]()
