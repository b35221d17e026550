"""The flags of ``scope batch`` that other commands have not, or in another way."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from .flags import (
    BudgetFlags,
    ComputeFlags,
    Config,
    NoParseSpecial,
    PolicyFlags,
    SamplingFlags,
    Verbose,
)
from .groups import flag

if TYPE_CHECKING:
    from scope_cpp.batch.asked import Asked
    from scope_cpp.batch.requests import Defaults

_files = partial(flag, "Input and output")
_rows = partial(flag, "Rows")
_at_once = partial(flag, "Rows at once")
_prompt = partial(flag, "Prompt")
_cache = partial(flag, "KV cache and eviction")
_sampling = partial(flag, "Sampling (a model's own values replace these defaults)")
_output = partial(flag, "Output")


@dataclass(frozen=True)
class FileFlags:
    """Where rows come from and records go."""

    source: Annotated[
        str | None,
        _files(
            "--input-file", "-i", metavar="FILE", help="Rows: .jsonl, .csv or .txt; - is stdin."
        ),
    ] = None
    output_file: Annotated[
        str | None,
        _files(
            "--output-file",
            "-o",
            metavar="FILE",
            help="Records, a JSON object a line; what is there is gone on with. - is stdout.",
        ),
    ] = None
    format: Annotated[
        str | None,
        _files(
            "--format",
            metavar="jsonl|openai|csv|text",
            help="Of the input.",
            show_default="by the ending; openai by its first line",
        ),
    ] = None
    ordered: Annotated[
        bool, _files("--ordered", help="Records in the order of the rows, else as finished.")
    ] = False
    force: Annotated[
        bool,
        _files(
            "--force", help="Go on with a file of another model, other flags or other rows too."
        ),
    ] = False


@dataclass(frozen=True)
class WhichRowsFlags:
    """Which rows are run, and until when."""

    limit: Annotated[int | None, _rows("--limit", min=1, metavar="N", help="Most rows.")] = None
    shuffle: Annotated[
        bool, _rows("--shuffle", help="In an order drawn with --seed; takes all to memory.")
    ] = False
    fail_fast: Annotated[bool, _rows("--fail-fast", help="End with the first row that fails.")] = (
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
            help="Most rows at once; one begins when the cells that it may need are free.",
            show_default="8, or fewer that fit into half of the free memory",
        ),
    ] = None
    cells: Annotated[
        str | None,
        _at_once(
            "--cells",
            metavar="CELLS",
            help="KV cells of all rows together, never exceeded: 16k, 512MiB or auto.",
            show_default="-np times what the largest row may need (of a stream: 8192), at most"
            " half of the free memory",
        ),
    ] = None
    prefix_cells: Annotated[
        str | None,
        _at_once(
            "--prefix-cells",
            metavar="CELLS",
            help="Of these, most in which prompts of finished rows rest for rows that begin alike;"
            " given up when a row needs them.",
            show_default="the longest prompt's",
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
    system_prompt: Annotated[
        str | None,
        _prompt(
            "--system-prompt",
            "-sys",
            metavar="TEXT",
            help="Begins chats that have none; implies --chat.",
        ),
    ] = None
    chat_template: Annotated[
        str | None,
        _prompt("--chat-template", metavar="JINJA", help="Instead of the model's."),
    ] = None
    chat_template_file: Annotated[
        str | None,
        _prompt("--chat-template-file", metavar="FILE", help="The same from a file."),
    ] = None


@dataclass(frozen=True)
class BatchPolicyFlags(PolicyFlags):
    """What is evicted; -o is the output here."""

    option: Annotated[
        list[str] | None,
        _cache(
            "--option",
            metavar="KEY=VALUE",
            help="An option of the policies (beta1=48), repeatable.",
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
            help="Each row's own comes of it and the row's id. -1 draws one.",
            show_default="0",
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
            help="Longest output of a row; -1: no limit.",
            show_default="to the length that the model was trained on",
        ),
    ] = None
    stop: Annotated[
        list[str] | None,
        _output("--stop", metavar="TEXT", help="End before this text, repeatable."),
    ] = None


@dataclass(frozen=True)
class BatchOutputFlags:
    """What is printed."""

    json: Annotated[
        bool,
        _output("--json", help="Print the summary as a JSON object on stdout; -o -: on stderr."),
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
    from scope_cpp.batch.asked import Asked

    return Asked(
        _path(files.source, "no input: give a file of rows with -i, or -i - for stdin"),
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
        seed=values.pop("seed", 0),
        sampling=values,
        n_predict=n_predict,
        stop=tuple(length.stop or ()),
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
