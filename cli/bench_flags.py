"""The flags of ``scope bench``: llama-bench's, and those that say what is bounded and how."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Literal

from . import completion
from .flags import ComputeFlags, Config, Verbose
from .groups import flag, given
from .help_page import OUTPUT

if TYPE_CHECKING:
    from scope_cpp.bench.request import Request

_test = partial(flag, "Test")
_rows = partial(flag, "Rows (lists make a row for each combination)")
_output = partial(flag, OUTPUT)


@dataclass(frozen=True)
class BenchFlags:
    """What is measured, and how often."""

    tests: Annotated[
        str | None,
        _test(
            "--test",
            metavar="KIND,...",
            complete=completion.lists_of("bench.request:TESTS"),
            help="What to measure. gen: the next token at a depth. prompt: the time to the first"
            " token. memory: gen, with a prompt that is read. turn: the tenth turn of a"
            " conversation. python: the part of a token's time that Python takes. parallel: several"
            " texts written at once.",
            show_default="{bench.request:Request.tests}, or parallel with -np",
        ),
    ] = None
    n_parallel: Annotated[
        str | None,
        _test(
            "--parallel",
            "-np",
            metavar="N,...",
            help="Numbers of texts to write at once.",
            show_default="{bench.request:Request.n_parallel}",
        ),
    ] = None
    n_prompt: Annotated[
        str | None,
        _test(
            "--n-prompt",
            "-p",
            metavar="N,...",
            help="Lengths of the prompt in tokens.",
            show_default="{bench.request:N_PROMPT!each}",
        ),
    ] = None
    n_gen: Annotated[
        int | None,
        _test(
            "--n-gen",
            "-n",
            metavar="N",
            help="Tokens that one repetition generates.",
            show_default="{bench.request:N_GEN!each}",
        ),
    ] = None
    n_depth: Annotated[
        str | None,
        _test(
            "--n-depth",
            "-d",
            metavar="N,...",
            help="Positions at which generation is measured; the prompt is a part of them.",
            show_default="this many tokens after the prompt: {bench.request:N_OUTPUT!each}",
        ),
    ] = None
    repetitions: Annotated[
        int | None,
        _test(
            "--repetitions",
            "-r",
            metavar="N",
            help="Number of repetitions. One more goes before them to warm up.",
            show_default="{bench.request:REPETITIONS!each}",
        ),
    ] = None
    fill: Annotated[
        str | None,
        _test(
            "--fill",
            choices="bench.request:FILLS",
            help="How the cache is filled up to the depth. copy: with copies of a few cells. read:"
            " the prompt is read, then copies. decode: token by token, which gives an attention"
            " loss that means something.",
            show_default="{bench.request:FILL!each}",
        ),
    ] = None
    seed: Annotated[
        int | None,
        _test(
            "--seed",
            "-s",
            min=0,
            metavar="N",
            help="Seed of the random prompt.",
            show_default="{bench.row:Compute.seed}",
        ),
    ] = None


@dataclass(frozen=True)
class RowFlags:
    """Which rows there are."""

    policy: Annotated[
        list[str] | None,
        _rows(
            "--policy",
            metavar="NAME[:KEY=VALUE]...,...",
            complete=completion.lists_of("policies:decode_names"),
            help="Policies, each with options of its own. Repeat it for several.",
            show_default="{engine.settings:DEFAULT_POLICY}",
        ),
    ] = None
    prefill: Annotated[
        str | None,
        _rows(
            "--prefill",
            metavar="NAME,...",
            complete=completion.lists_of("policies:prefill_names"),
            help="Which cells of the prompt stay: {policies:prefill_names}.",
            show_default="{bench.request:Request.prefills}",
        ),
    ] = None
    granularity: Annotated[
        str | None,
        _rows(
            "--granularity",
            metavar="{engine.settings:GRANULARITIES!bars},...",
            complete=completion.lists_of("engine.settings:GRANULARITIES"),
            help="Whether each KV head chooses its own cells, or one choice holds for all.",
            show_default="{bench.request:Request.granularities}",
        ),
    ] = None
    option: Annotated[
        list[str] | None,
        _rows(
            "--option",
            metavar="KEY=VALUE",
            help="Set an option of all policies. Repeat it for several.",
        ),
    ] = None
    beta: Annotated[
        int | None,
        _rows(
            "--beta",
            metavar="N",
            help="Cells of the output, beside those of the prompt.",
            show_default="{bench.request:Request.beta}",
        ),
    ] = None
    budget: Annotated[
        str | None,
        _rows("--budget", metavar="CELLS", help="Cells for prompt and output, instead of --beta."),
    ] = None
    flash_attn: Annotated[
        str | None,
        _rows(
            "--flash-attn",
            "-fa",
            metavar="on|off,...",
            complete=completion.lists_of("bench.request:FLASH"),
            help="Flash attention of bounded rows. The full cache is always measured with both;"
            " with a quantized V, which needs it, only with flash attention.",
            show_default="{bench.request:Request.flash}",
        ),
    ] = None
    type_k: Annotated[
        str | None,
        _rows(
            "--cache-type-k",
            "-ctk",
            metavar="TYPE",
            choices="engine.kv_types:KV_TYPES",
            help="Type in which K is stored: {engine.kv_types:KV_TYPES}.",
            show_default="{bench.row:Compute.type_k}",
        ),
    ] = None
    type_v: Annotated[
        str | None,
        _rows(
            "--cache-type-v",
            "-ctv",
            metavar="TYPE",
            choices="engine.kv_types:KV_TYPES",
            help="Type in which V is stored; the same types.",
            show_default="{bench.row:Compute.type_v}",
        ),
    ] = None
    stock: Annotated[
        str | None,
        _rows(
            "--stock",
            metavar="FOLDER",
            help="Measure the full cache with the unpatched libllama in this folder.",
            show_default="our library, its hooks off",
        ),
    ] = None
    n_gpu_layers: Annotated[
        str | None,
        _rows(
            "--n-gpu-layers",
            "--gpu-layers",
            "-ngl",
            metavar="N|auto|all",
            complete=completion.words("auto", "all"),
            help="Number of layers that are computed on the GPU.",
            show_default="all",
        ),
    ] = None
    no_mmap: Annotated[
        bool, _rows("--no-mmap", help="Read the file into memory instead of mapping it.")
    ] = False


@dataclass(frozen=True)
class BenchOutputFlags:
    """What is printed."""

    output: Annotated[
        Literal["table", "md", "csv", "json", "jsonl"],
        _output(
            "--output",
            "-o",
            metavar="table|md|csv|json|jsonl",
            help="Format of the report. table is short, the others have everything.",
        ),
    ] = "table"
    wide: Annotated[bool, _output("--wide", help="Show all columns; the same as -o md.")] = False
    plot: Annotated[
        str | None,
        _output(
            "--plot", metavar="FILE.png", help="Draw speed and memory by position into this file."
        ),
    ] = None
    progress: Annotated[
        bool, _output("--progress", help="Say on stderr what is being measured.")
    ] = False
    verbose: Verbose = False
    config: Config = None


def request_of(
    path: str,
    test: BenchFlags,
    row: RowFlags,
    compute: ComputeFlags,
) -> Request:
    """Return what the flags ask for; what they leave out has the request's defaults.

    Raises
    ------
    UsageError
        For a list or a name that is none.
    """
    from scope_cpp.bench.request import Request
    from scope_cpp.bench.row import Compute

    from .convert import gpu_layers

    how = {**asdict(compute), "type_k": row.type_k, "type_v": row.type_v, "seed": test.seed}
    lists = {
        "tests": ("--test", test.tests or (None if test.n_parallel is None else "parallel")),
        "flash": ("-fa", row.flash_attn),
        "prefills": ("--prefill", row.prefill),
        "granularities": ("--granularity", row.granularity),
    }
    asked: dict[str, Any] = {
        "n_parallel": numbers("-np", test.n_parallel) or None,
        "n_gen": test.n_gen,
        "repetitions": test.repetitions,
        "beta": row.beta,
        "budget": row.budget,
        "fill": test.fill,
        "stock": row.stock,
        **{key: names(name, text) for key, (name, text) in lists.items() if text is not None},
    }
    return Request(
        Compute(
            path,
            n_gpu_layers=gpu_layers(row.n_gpu_layers),
            use_mmap=not row.no_mmap,
            **given(how),
        ),
        n_prompts=numbers("-p", test.n_prompt),
        depths=numbers("-d", test.n_depth),
        policies=tuple(name for text in row.policy or () for name in names("--policy", text)),
        options=tuple(row.option or ()),
        **given(asked),
    )


def names(name: str, text: str) -> tuple[str, ...]:
    """Return what a list of a flag names, each once."""
    from scope_cpp.errors import UsageError

    names = tuple(part.strip() for part in text.split(","))
    if not all(names):
        raise UsageError(f"{name} {text!r}: give a name, or several with commas between them")
    return tuple(dict.fromkeys(names))


def numbers(name: str, text: str | None) -> tuple[int, ...]:
    """Return the whole numbers of a flag's list, each once; none if it is not given."""
    from scope_cpp.engine.ranges import INT32_MAX
    from scope_cpp.errors import UsageError

    if text is None:
        return ()
    try:
        numbers = tuple(dict.fromkeys(int(part) for part in text.split(",")))
    except ValueError:
        raise UsageError(f"{name} {text}: give whole numbers, such as 4096,16384") from None
    if max(numbers) > INT32_MAX:
        raise UsageError(f"{name} {max(numbers)}: give at most {INT32_MAX}")
    return numbers
