"""The flags of ``scope eval``: what is asked, under which configurations, and where it goes."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from .flags import ComputeFlags, Config, Json, Verbose
from .groups import flag

if TYPE_CHECKING:
    from scope_cpp.eval.asked import Asked
    from scope_cpp.eval.grid import Grid

_task = partial(flag, "Task")
_rows = partial(flag, "Rows")
_output = partial(flag, "Output")

Folder = Annotated[str, typer.Argument(metavar="FOLDER", help="A run's folder.")]


@dataclass(frozen=True)
class TaskFlags:
    """What the model is asked."""

    task: Annotated[
        str, _task("--task", metavar="NAME", help="See 'scope eval tasks'.", show_default=True)
    ] = "reference"
    data: Annotated[
        str | None,
        _task("--data", metavar="FILE", help="The task's data; 'scope eval tasks': from where."),
    ] = None
    task_option: Annotated[
        list[str] | None,
        _task("--task-option", metavar="KEY=VALUE", help="An option of the task, repeatable."),
    ] = None
    limit: Annotated[
        int | None, _task("--limit", min=1, metavar="N", help="Most samples, of each seed.")
    ] = None
    seed: Annotated[
        str,
        _task(
            "--seed",
            "-s",
            metavar="N,...",
            help="Of samples that are made or drawn; each number makes its own.",
        ),
    ] = "0"
    template: Annotated[
        bool, _task("--template", help="Prompts through the model's own chat template.")
    ] = False
    temp: Annotated[float, _task("--temp", "--temperature", metavar="T", help="0 is greedy.")] = 0.0
    scorer: Annotated[
        str | None,
        _task(
            "--scorer",
            metavar="NAME",
            help="The report's; others are named beside it.",
            show_default="the task's first",
        ),
    ] = None


@dataclass(frozen=True)
class EvalRowFlags:
    """Under which configurations of the cache."""

    rows: Annotated[
        str | None,
        _rows(
            "--rows",
            metavar="NAME[:KEY=VALUE]...,...",
            help="Policies, each with options of its own; beta/2 is half of the cells beside the "
            "prompt. 'methods', 'scores' and 'prefills' are all policies, all scoring rules and "
            "all prefill policies.",
            show_default="full, scope-foresight:interval=auto, scope-slide:interval=auto, "
            "scope-adaptive, scope-discontinuous, h2o:recent=beta/2, streaming-llm",
        ),
    ] = None
    row: Annotated[
        list[str] | None,
        _rows(
            "--row",
            metavar="'NAME: FLAGS'",
            help="One more, with flags of 'scope generate': 'cells: --policy scope-slide "
            "--granularity cell -o interval=16'. Repeatable.",
        ),
    ] = None
    option: Annotated[
        list[str] | None,
        _rows("--option", metavar="KEY=VALUE", help="An option of all --rows, repeatable."),
    ] = None
    beta: Annotated[
        str | None,
        _rows(
            "--beta",
            metavar="N,...",
            help="Cells beside the prompt's tokens; each number is for all rows.",
            show_default="1/9 of the longest output",
        ),
    ] = None
    budget: Annotated[
        str | None,
        _rows(
            "--budget",
            metavar="CELLS,...",
            help="Cells for prompt and output, instead of --beta.",
        ),
    ] = None
    prefill: Annotated[
        str, _rows("--prefill", metavar="NAME", help="What of the prompt stays in bounded rows.")
    ] = "full"
    granularity: Annotated[
        str,
        _rows("--granularity", metavar="head|cell", help="Each KV head chooses, or one for all."),
    ] = "head"
    type_k: Annotated[
        str,
        _rows(
            "--cache-type-k",
            "-ctk",
            metavar="TYPE,...",
            help="KV cache type of K; each, with V's of the same place, is a set of rows.",
        ),
    ] = "f16"
    type_v: Annotated[
        str, _rows("--cache-type-v", "-ctv", metavar="TYPE,...", help="KV cache type of V.")
    ] = "f16"
    flash_attn: Annotated[
        Literal["on", "off", "auto"],
        _rows("--flash-attn", "-fa", metavar="on|off|auto", help="As of 'scope generate'."),
    ] = "auto"


@dataclass(frozen=True)
class RunFlags:
    """Where a run goes, and what is printed."""

    out: Annotated[
        str | None,
        _output(
            "--out",
            metavar="DIR",
            help="The run's folder; a run that is there goes on.",
            show_default="eval-runs/, named after task, model and settings",
        ),
    ] = None
    fresh: Annotated[
        bool, _output("--fresh", help="A new folder, even if such a run is there.")
    ] = False
    jobs: Annotated[
        int,
        _output("--jobs", "-j", min=1, metavar="N", help="Samples at once, threads shared."),
    ] = 1
    log_samples: Annotated[
        bool, _output("--log-samples", help="Write prompts and golds beside the outputs.")
    ] = False
    output: Annotated[
        Literal["md", "csv", "json"],
        _output("--output", "-o", metavar="md|csv|json", help="What stdout gets."),
    ] = "md"
    verbose: Verbose = False
    config: Config = None


@dataclass(frozen=True)
class ReportFlags:
    """How a run's table is printed."""

    markdown: Annotated[
        bool,
        _output("--markdown", help="With its command, even on a terminal."),
    ] = False
    json: Json = False
    verbose: Verbose = False
    config: Config = None


@dataclass(frozen=True)
class ScoreFlags:
    """What a file of outputs is scored by."""

    task: Annotated[
        str | None,
        _task(
            "--task",
            metavar="NAME",
            help="See 'scope eval tasks'.",
            show_default="as the file's answers say",
        ),
    ] = None
    scorer: Annotated[
        str | None,
        _task("--scorer", metavar="NAME", help="How.", show_default="the task's first"),
    ] = None
    data: Annotated[
        str | None,
        _task("--data", metavar="FILE", help="The task's data, if the answers are not here."),
    ] = None
    task_option: Annotated[
        list[str] | None,
        _task("--task-option", metavar="KEY=VALUE", help="An option of the task, repeatable."),
    ] = None
    seed: Annotated[
        int,
        _task(
            "--seed", "-s", min=0, metavar="N", help="Of samples that are made, and the resampling."
        ),
    ] = 0


@dataclass(frozen=True)
class CompareFlags:
    """Which rows are compared, and how."""

    rows: Annotated[
        list[str] | None,
        _rows("--rows", metavar="A=B", help="A row of A and one of B, repeatable.",
              show_default="those of the same name"),
    ] = None  # fmt: skip
    scorer: Annotated[
        str | None,
        _rows("--scorer", metavar="NAME", help="By which.", show_default="the task's first"),
    ] = None
    seed: Annotated[int, _rows("--seed", "-s", min=0, metavar="N", help="Of the resampling.")] = 0


@dataclass(frozen=True)
class PlainOutputFlags:
    """What is printed where nothing runs."""

    json: Json = False
    verbose: Verbose = False
    config: Config = None


def asked_of(flags: TaskFlags, log_samples: bool) -> Asked:
    """Return what the flags ask of a run."""
    from pathlib import Path

    from scope_cpp.eval.asked import Asked

    from .bench_flags import numbers

    return Asked(
        flags.task,
        tuple(flags.task_option or ()),
        None if flags.data is None else Path(flags.data),
        flags.limit,
        numbers("--seed", flags.seed),
        flags.template,
        flags.temp,
        log_samples,
    )


def grid_of(flags: EvalRowFlags, compute: ComputeFlags) -> Grid:
    """Return the rows that the flags ask for.

    Raises
    ------
    UsageError
        For a list or a name that is none.
    """
    from dataclasses import asdict

    from scope_cpp.engine.settings import Settings
    from scope_cpp.eval.grid import DEFAULT_ROWS, Grid

    from .bench_flags import names, numbers

    common = {
        "prefill": flags.prefill,
        "granularity": flags.granularity,
        "flash_attn": flags.flash_attn,
        **{name: value for name, value in asdict(compute).items() if value is not None},
    }
    return Grid(
        DEFAULT_ROWS if flags.rows is None else names("--rows", flags.rows),
        named=tuple(flags.row or ()),
        options=tuple(flags.option or ()),
        betas=numbers("--beta", flags.beta),
        budgets=() if flags.budget is None else names("--budget", flags.budget),
        types=_pairs(names("-ctk", flags.type_k), names("-ctv", flags.type_v)),
        base=Settings(**common),
    )


def _pairs(keys: tuple[str, ...], values: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
    from scope_cpp.errors import UsageError

    if len(keys) > 1 and len(values) == 1:
        values *= len(keys)
    if len(values) > 1 and len(keys) == 1:
        keys *= len(values)
    if len(keys) != len(values):
        raise UsageError(f"-ctk has {len(keys)} types, -ctv {len(values)}: give as many of both")
    return tuple(zip(keys, values, strict=True))
