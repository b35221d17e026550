"""The flags of ``scope batch`` that other commands have not, or in another way."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from . import completion
from .flags import (
    ANOTHER_TEMPLATE,
    CACHE,
    SAMPLING,
    TEMPLATE_FILE,
    TEMPLATES,
    BudgetFlags,
    ComputeFlags,
    Config,
    NoParseSpecial,
    PolicyFlags,
    SamplingFlags,
    Verbose,
)
from .groups import flag
from .help_page import OUTPUT

if TYPE_CHECKING:
    from scope_cpp.batch.asked import Asked
    from scope_cpp.batch.requests import Defaults

_files = partial(flag, "Input and output")
_rows = partial(flag, "Rows")
_at_once = partial(flag, "Rows at once")
_prompt = partial(flag, "Prompt")
_cache = partial(flag, CACHE)
_sampling = partial(flag, SAMPLING)
_output = partial(flag, OUTPUT)


@dataclass(frozen=True)
class FileFlags:
    """Where rows come from and records go."""

    source: Annotated[
        str | None,
        _files(
            "--input-file",
            "-i",
            metavar="FILE",
            help="The prompts, one in each row of a .jsonl, .csv or .txt file; - is stdin.",
        ),
    ] = None
    output_file: Annotated[
        str | None,
        _files(
            "--output-file",
            "-o",
            metavar="FILE",
            help="Write one JSON object for each row to this file; - is stdout. An existing file"
            " is resumed.",
        ),
    ] = None
    format: Annotated[
        str | None,
        _files(
            "--format",
            metavar="jsonl|openai|csv|text",
            choices="batch.formats:FORMATS",
            help="Format of the input.",
            show_default="by the file's ending; openai by its first line",
        ),
    ] = None
    ordered: Annotated[
        bool,
        _files(
            "--ordered",
            help="Write records in the order of the rows. Otherwise they are written as they"
            " finish.",
        ),
    ] = False
    force: Annotated[
        bool,
        _files(
            "--force",
            help="Resume a file even if it was written by another model, with other options or"
            " for other rows.",
        ),
    ] = False


@dataclass(frozen=True)
class WhichRowsFlags:
    """Which rows are run, and until when."""

    limit: Annotated[
        int | None, _rows("--limit", min=1, metavar="N", help="Run at most N rows.")
    ] = None
    shuffle: Annotated[
        bool,
        _rows(
            "--shuffle",
            help="Run the rows in an order drawn with --seed. All rows are read into memory.",
        ),
    ] = False
    fail_fast: Annotated[bool, _rows("--fail-fast", help="Stop at the first row that fails.")] = (
        False
    )


@dataclass(frozen=True)
class ParallelFlags:
    """How many rows run at once, and in what."""

    n_parallel: Annotated[
        int | None,
        _at_once(
            "--parallel",
            "-np",
            min=1,
            metavar="N",
            help="Most rows at once. A row begins when all cells that it may need are free.",
            show_default="{batch.asked:MOST_ROWS}, or as many as fit into half of the free memory",
        ),
    ] = None
    cells: Annotated[
        str | None,
        _at_once(
            "--cells",
            metavar="CELLS",
            help="KV cells of all rows together, never exceeded: 16k, memory with all"
            " buffers (512MiB), or auto.",
            show_default="-np times what the largest row may need ({engine.settings:CHAT_CELLS}"
            " for rows from stdin), at most half of the free memory",
        ),
    ] = None
    prefix_cells: Annotated[
        str | None,
        _at_once(
            "--prefix-cells",
            metavar="CELLS",
            help="How many of these cells prompts of finished rows may keep, for rows that begin"
            " with the same text. A row that needs the cells gets them. With a model that has"
            " sliding windows or recurrent states it is as much memory, beside the cells.",
            show_default="those of the longest prompt; beside the cells also room for the windows"
            " and states of two",
        ),
    ] = None


@dataclass(frozen=True)
class TemplateFlags:
    """How prompts are read."""

    chat: Annotated[
        bool,
        _prompt(
            "--chat",
            help="Read each 'prompt' as a user's message. Otherwise it is text to continue;"
            " 'messages' always go through the chat template.",
        ),
    ] = False
    no_parse_special: NoParseSpecial = False
    no_escape: Annotated[
        bool,
        _prompt(
            "--no-escape",
            help="Take the text of --stop as it is. Otherwise escapes such as \\n are read.",
        ),
    ] = False
    system_prompt: Annotated[
        str | None,
        _prompt(
            "--system-prompt",
            "-sys",
            metavar="TEXT",
            help="A system message for chats that have none; implies --chat.",
        ),
    ] = None
    chat_template: Annotated[
        str | None,
        _prompt("--chat-template", metavar="NAME|JINJA", choices=TEMPLATES, help=ANOTHER_TEMPLATE),
    ] = None
    chat_template_file: Annotated[
        str | None,
        _prompt("--chat-template-file", metavar="FILE", help=TEMPLATE_FILE),
    ] = None


@dataclass(frozen=True)
class BatchPolicyFlags(PolicyFlags):
    """What is evicted; -o is the output here."""

    option: Annotated[
        list[str] | None,
        _cache(
            "--option",
            metavar="KEY=VALUE",
            complete=completion.options,
            help="Set an option of the policies, such as beta1=48. Repeat it for several.",
            show_default=False,
        ),
    ] = None


@dataclass(frozen=True)
class BatchSamplingFlags(SamplingFlags):
    """How the next token is chosen, with a seed of the run."""

    seed: Annotated[
        int | None,
        _sampling(
            "--seed",
            "-s",
            metavar="N",
            help="Seed of the run. Each row's own seed is made of it and the row's id. -1 draws"
            " one.",
            show_default="{batch.asked:DEFAULT_SEED}",
        ),
    ] = None


@dataclass(frozen=True)
class BatchLengthFlags:
    """When an output ends."""

    n_predict: Annotated[
        int | None,
        _output(
            "--n-predict",
            "--predict",
            "-n",
            metavar="N",
            help="Longest output of a row in tokens; -1 sets no limit.",
            show_default="up to the length that the model was trained on",
        ),
    ] = None
    stop: Annotated[
        list[str] | None,
        _output(
            "--stop",
            "--reverse-prompt",
            "-r",
            metavar="TEXT",
            help="End an output before this text. Repeat it for several.",
        ),
    ] = None


@dataclass(frozen=True)
class BatchOutputFlags:
    """What is printed."""

    json: Annotated[
        bool,
        _output(
            "--json",
            help="Print the summary as one JSON object on stdout; on stderr if the records go to"
            " stdout.",
        ),
    ] = False
    verbose: Verbose = False
    config: Config = None


def asked_of(files: FileFlags, rows: WhichRowsFlags, at_once: ParallelFlags) -> Asked:
    """Return what the flags ask of a batch.

    Raises
    ------
    UsageError
        If a file is not named.
    """
    from scope_cpp.batch.asked import Asked, check_source

    source = _path(files.source, "no input: give a file of rows with -i, or -i - for stdin")
    if files.output_file is None:
        check_source(source)  # both may be wrong: the first one is told first
    return Asked(
        source,
        _path(files.output_file, "no output: give a file with -o, or -o - for stdout"),
        form=files.format,
        limit=rows.limit,
        shuffle=rows.shuffle,
        ordered=files.ordered,
        fail_fast=rows.fail_fast,
        force=files.force,
        n_parallel=at_once.n_parallel,
        cells=at_once.cells,
        prefix_cells=at_once.prefix_cells,
    )


def defaults_of(
    budget: BudgetFlags,
    policy: BatchPolicyFlags,
    compute: ComputeFlags,
    sampling: BatchSamplingFlags,
    length: BatchLengthFlags,
    template: TemplateFlags,
) -> Defaults:
    """Return what rows get that set nothing themselves.

    Raises
    ------
    UsageError
        For a value out of range, or a file that can't be read.
    """
    from scope_cpp.batch.asked import DEFAULT_SEED
    from scope_cpp.batch.requests import Defaults
    from scope_cpp.engine.parallel.options import NO_LIMIT
    from scope_cpp.errors import UsageError

    from . import convert
    from .prompt import template_of

    n_predict = length.n_predict
    if n_predict is not None and n_predict < 1 and n_predict != NO_LIMIT:
        raise UsageError(f"-n {n_predict}: give at least 1, or -1 for no limit")
    values = convert.sampling_values(sampling)
    return Defaults(
        settings=convert.settings(budget, policy, compute),
        seed=values.pop("seed", DEFAULT_SEED),
        sampling=values,
        n_predict=n_predict,
        stop=convert.stop_strings(length.stop, not template.no_escape),
        chat=template.chat or template.system_prompt is not None,
        parse_special=not template.no_parse_special,
        system_prompt=template.system_prompt,
        template=template_of(template.chat_template, template.chat_template_file),
    )


def _path(name: str | None, otherwise: str) -> Path | None:
    """Return the file that is named; ``None`` for a stream."""
    from scope_cpp.errors import UsageError

    if not name:
        raise UsageError(otherwise)
    return None if name == "-" else Path(name)
