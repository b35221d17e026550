"""The flags of ``scope eval``: what is asked, under which configurations, and where it goes."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import typer

from . import completion
from .flags import (
    ANOTHER_TEMPLATE,
    TEMPLATE_FILE,
    TEMPLATES,
    ComputeFlags,
    Config,
    Json,
    Verbose,
)
from .groups import flag, given
from .help_page import OUTPUT

if TYPE_CHECKING:
    from scope_cpp.eval.asked import Asked
    from scope_cpp.eval.grid import Grid

_task = partial(flag, "Task")
_rows = partial(flag, "Rows")
_output = partial(flag, OUTPUT)

Folder = Annotated[str, typer.Argument(metavar="FOLDER", help="The folder of a run.")]
Folders = Annotated[
    list[str],
    typer.Argument(
        metavar="FOLDER...",
        help="The folder of a run; of fidelity several, to see which row holds over all of them.",
        show_default=False,
    ),
]


@dataclass(frozen=True)
class TaskFlags:
    """What the model is asked."""

    task: Annotated[
        str | None,
        _task(
            "--task",
            metavar="NAME",
            choices="eval.tasks:tasks",
            help="The task; 'scope eval tasks' lists them.",
            show_default="{eval.asked:DEFAULT_TASK}",
        ),
    ] = None
    data: Annotated[
        str | None,
        _task(
            "--data",
            metavar="FILE",
            help="The data of the task; 'scope eval tasks' says where to get it.",
        ),
    ] = None
    task_option: Annotated[
        list[str] | None,
        _task(
            "--task-option",
            metavar="KEY=VALUE",
            complete=completion.task_options,
            help="Set an option of the task. Repeat it for several.",
        ),
    ] = None
    limit: Annotated[
        int | None, _task("--limit", min=1, metavar="N", help="Run at most N samples of each seed.")
    ] = None
    seed: Annotated[
        str | None,
        _task(
            "--seed",
            "-s",
            metavar="N,...",
            help="Seeds of samples that are made or drawn. Each number makes its own samples.",
            show_default="{eval.asked:Asked.seeds}",
        ),
    ] = None
    template: Annotated[
        bool, _task("--template", help="Put the prompts through the model's own chat template.")
    ] = False
    chat_template: Annotated[
        str | None,
        _task(
            "--chat-template",
            metavar="NAME|JINJA",
            choices=TEMPLATES,
            help=f"{ANOTHER_TEMPLATE} Implies --template.",
        ),
    ] = None
    chat_template_file: Annotated[
        str | None, _task("--chat-template-file", metavar="FILE", help=TEMPLATE_FILE)
    ] = None
    temp: Annotated[
        float | None,
        _task(
            "--temp",
            "--temperature",
            metavar="T",
            help="Temperature. At 0 the most likely token is always taken.",
            show_default="{eval.asked:TEMP}, for fidelity {eval.asked:FIDELITY_TEMP}",
        ),
    ] = None
    scorer: Annotated[
        str | None,
        _task(
            "--scorer",
            metavar="NAME",
            complete=completion.scorers,
            help="The scorer of the report. The others stand beside it.",
            show_default="the task's first",
        ),
    ] = None


@dataclass(frozen=True)
class EvalRowFlags:
    """Under which configurations of the cache."""

    DEFAULTS: ClassVar[str] = "engine.settings:Settings"

    rows: Annotated[
        str | None,
        _rows(
            "--rows",
            metavar="NAME[:KEY=VALUE]...,...",
            complete=completion.lists_of("eval.grid:known_rows"),
            help="Policies, each with options of its own; beta/2 is half of the cells beside the"
            " prompt. 'methods' stands for all policies, 'scores' for all scoring rules, and"
            " 'prefills' for all prefill policies.",
            show_default="{eval.grid:default_rows}",
        ),
    ] = None
    row: Annotated[
        list[str] | None,
        _rows(
            "--row",
            metavar="'NAME: FLAGS'",
            help="One more row, with options of 'scope generate': 'cells: --policy scope-slide"
            " --granularity cell -o interval=16'. Repeat it for several.",
            show_default=False,
        ),
    ] = None
    option: Annotated[
        list[str] | None,
        _rows(
            "--option",
            metavar="KEY=VALUE",
            help="Set an option of all --rows. Repeat it for several.",
            show_default=False,
        ),
    ] = None
    beta: Annotated[
        str | None,
        _rows(
            "--beta",
            metavar="N,...",
            help="Cells beside those of the prompt, or a share of the output such as 1/6. Each one"
            " makes all rows once.",
            show_default="1/{eval.grid:DEFAULT_SHARE} of the longest output",
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
        str | None,
        _rows(
            "--prefill",
            metavar="NAME",
            choices="policies:prefill_names",
            help="Which cells of the prompt stay in bounded rows: {policies:prefill_names}.",
        ),
    ] = None
    granularity: Annotated[
        str | None,
        _rows(
            "--granularity",
            choices="engine.settings:GRANULARITIES",
            help="Whether each KV head chooses its own cells, or one choice holds for all.",
        ),
    ] = None
    type_k: Annotated[
        str | None,
        _rows(
            "--cache-type-k",
            "-ctk",
            metavar="TYPE,...",
            complete=completion.lists_of("engine.kv_types:KV_TYPES"),
            help="Types in which K is stored. Each type, with V's at the same place in its list,"
            " makes all rows once.",
        ),
    ] = None
    type_v: Annotated[
        str | None,
        _rows(
            "--cache-type-v",
            "-ctv",
            metavar="TYPE,...",
            complete=completion.lists_of("engine.kv_types:KV_TYPES"),
            help="Types in which V is stored.",
        ),
    ] = None
    flash_attn: Annotated[
        str | None,
        _rows(
            "--flash-attn",
            "-fa",
            choices="engine.context_params:FLASH_ATTN",
            help="Whether to use flash attention. With auto it is off for a bounded cache on a CPU,"
            " where that is faster.",
        ),
    ] = None


@dataclass(frozen=True)
class RunFlags:
    """Where a run goes, and what is printed."""

    out: Annotated[
        str | None,
        _output(
            "--out",
            metavar="DIR",
            help="The folder of the run. An unfinished run there is resumed.",
            show_default="below eval-runs/, named after task, model and settings",
        ),
    ] = None
    fresh: Annotated[
        bool, _output("--fresh", help="Take a new folder even if there is such a run.")
    ] = False
    jobs: Annotated[
        int,
        _output(
            "--jobs",
            "-j",
            min=1,
            metavar="N",
            help="Samples that run at once and share the threads.",
        ),
    ] = 1
    log_samples: Annotated[
        bool,
        _output("--log-samples", help="Write prompts and right answers beside the outputs."),
    ] = False
    output: Annotated[
        Literal["md", "csv", "json"],
        _output("--output", "-o", metavar="md|csv|json", help="Format of the report."),
    ] = "md"
    verbose: Verbose = False
    config: Config = None


@dataclass(frozen=True)
class ReportFlags:
    """How a run's table is printed."""

    markdown: Annotated[
        bool,
        _output(
            "--markdown", help="Print Markdown with the command of the run, even on a terminal."
        ),
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
            choices="eval.tasks:tasks",
            help="The task; 'scope eval tasks' lists them.",
            show_default="what the answers in the file say",
        ),
    ] = None
    scorer: Annotated[
        str | None,
        _task(
            "--scorer",
            metavar="NAME",
            complete=completion.scorers,
            help="The scorer to use.",
            show_default="the task's first",
        ),
    ] = None
    data: Annotated[
        str | None,
        _task(
            "--data",
            metavar="FILE",
            help="The data of the task, if the right answers are not in the file.",
        ),
    ] = None
    task_option: Annotated[
        list[str] | None,
        _task(
            "--task-option",
            metavar="KEY=VALUE",
            complete=completion.task_options,
            help="Set an option of the task. Repeat it for several.",
        ),
    ] = None
    seed: Annotated[
        int,
        _task(
            "--seed",
            "-s",
            min=0,
            metavar="N",
            help="Seed of samples that are made, and of the resampling.",
        ),
    ] = 0


@dataclass(frozen=True)
class CompareFlags:
    """Which rows are compared, and how."""

    rows: Annotated[
        list[str] | None,
        _rows(
            "--rows",
            metavar="A=B",
            help="Compare a row of the first run with one of the second. Repeat it for several.",
            show_default="rows of the same name",
        ),
    ] = None
    scorer: Annotated[
        str | None,
        _rows(
            "--scorer",
            metavar="NAME",
            complete=completion.scorers,
            help="The scorer to compare by.",
            show_default="the task's first",
        ),
    ] = None
    seed: Annotated[
        int, _rows("--seed", "-s", min=0, metavar="N", help="Seed of the resampling.")
    ] = 0


@dataclass(frozen=True)
class PlainOutputFlags:
    """What is printed where nothing runs."""

    json: Json = False
    verbose: Verbose = False
    config: Config = None


def asked_of(flags: TaskFlags, log_samples: bool) -> Asked:
    """Return what the flags ask of a run."""
    from pathlib import Path

    from scope_cpp.eval.asked import DEFAULT_TASK, Asked

    from .bench_flags import numbers
    from .prompt import template_of

    more = {"seeds": numbers("--seed", flags.seed) or None, "temp": flags.temp}
    return Asked(
        flags.task or DEFAULT_TASK,
        tuple(flags.task_option or ()),
        None if flags.data is None else Path(flags.data),
        flags.limit,
        template=template_of(flags.chat_template, flags.chat_template_file) or flags.template,
        log_samples=log_samples,
        **given(more),
    )


def grid_of(flags: EvalRowFlags, compute: ComputeFlags) -> Grid:
    """Return the rows that the flags ask for.

    Raises
    ------
    UsageError
        For a list or a name that is none.
    """
    from scope_cpp.engine.settings import Settings
    from scope_cpp.eval.grid import DEFAULT_ROWS, Grid
    from scope_cpp.eval.rows import read_beta

    from .bench_flags import names

    common = {
        "prefill": flags.prefill,
        "granularity": flags.granularity,
        "flash_attn": flags.flash_attn,
        **asdict(compute),
    }
    return Grid(
        DEFAULT_ROWS if flags.rows is None else names("--rows", flags.rows),
        named=tuple(flags.row or ()),
        options=tuple(flags.option or ()),
        betas=() if flags.beta is None else tuple(map(read_beta, names("--beta", flags.beta))),
        budgets=_budgets(flags.budget),
        types=_pairs(
            names("-ctk", flags.type_k or Settings.type_k),
            names("-ctv", flags.type_v or Settings.type_v),
        ),
        base=Settings(**given(common)),
    )


def _budgets(text: str | None) -> tuple[str, ...]:
    from scope_cpp.engine.budget import parse_budget

    from .bench_flags import names

    budgets = () if text is None else names("--budget", text)
    for budget in budgets:
        parse_budget(budget)
    return budgets


def _pairs(keys: tuple[str, ...], values: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
    from scope_cpp.errors import UsageError

    if len(keys) > 1 and len(values) == 1:
        values *= len(keys)
    if len(values) > 1 and len(keys) == 1:
        keys *= len(values)
    if len(keys) != len(values):
        raise UsageError(f"-ctk has {len(keys)} types, -ctv {len(values)}: give as many of both")
    return tuple(zip(keys, values, strict=True))
