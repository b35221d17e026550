"""The flags of ``scope bench``: llama-bench's, and those that say what is bounded and how."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Annotated, Literal

from .flags import ComputeFlags, Config, Verbose
from .groups import flag

if TYPE_CHECKING:
    from scope_cpp.bench.request import Request

_test = partial(flag, "Test")
_rows = partial(flag, "Rows (lists: every combination is a row)")
_output = partial(flag, "Output")


@dataclass(frozen=True)
class BenchFlags:
    """What is measured, and how often."""

    tests: Annotated[
        str | None,
        _test(
            "--test",
            metavar="KIND,...",
            help="gen: a token at a depth. prompt: time to the first token. memory: the same cache "
            "with a prompt that is read. turn: the tenth of a conversation. python: the share of "
            "Python in a token. parallel: texts that are written at once.",
            show_default="gen; with -np parallel",
        ),
    ] = None
    n_parallel: Annotated[
        str | None,
        _test(
            "--parallel",
            "-np",
            metavar="N,...",
            help="Texts to write at once.",
            show_default="1,2,4,8",
        ),
    ] = None
    n_prompt: Annotated[
        str | None,
        _test(
            "--n-prompt",
            "-p",
            metavar="N,...",
            help="Tokens of the prompt.",
            show_default="2048; parallel 512, python 64, turn 128",
        ),
    ] = None
    n_gen: Annotated[
        int | None,
        _test(
            "--n-gen",
            "-n",
            metavar="N",
            help="Tokens of a repetition.",
            show_default="32; memory 4, python 64",
        ),
    ] = None
    n_depth: Annotated[
        str | None,
        _test(
            "--n-depth",
            "-d",
            metavar="N,...",
            help="Positions at which generation is measured, prompt included.",
            show_default="the prompt and 2048; memory: and 8192",
        ),
    ] = None
    repetitions: Annotated[
        int | None,
        _test(
            "--repetitions",
            "-r",
            metavar="N",
            help="Repetitions, after one to warm up.",
            show_default="5; memory 1",
        ),
    ] = None
    fill: Annotated[
        str | None,
        _test(
            "--fill",
            metavar="copy|read|decode",
            help="How the cache gets to the depth: copies of a few cells, the same after a prompt "
            "that is read, or token by token (for an attention loss that means something).",
            show_default="copy; memory: read",
        ),
    ] = None
    seed: Annotated[
        int, _test("--seed", "-s", min=0, metavar="N", help="Of the random prompt.")
    ] = 0


@dataclass(frozen=True)
class RowFlags:
    """Which rows there are."""

    policy: Annotated[
        list[str] | None,
        _rows(
            "--policy",
            metavar="NAME[:KEY=VALUE]...,...",
            help="Policies, each with options of its own, repeatable.",
            show_default="scope-slide:interval=auto",
        ),
    ] = None
    prefill: Annotated[
        str, _rows("--prefill", metavar="NAME,...", help="What of the prompt stays.")
    ] = "full"
    granularity: Annotated[
        str,
        _rows(
            "--granularity", metavar="head|cell,...", help="Each KV head chooses, or one for all."
        ),
    ] = "head"
    option: Annotated[
        list[str] | None,
        _rows("--option", metavar="KEY=VALUE", help="An option of all policies, repeatable."),
    ] = None
    beta: Annotated[
        int, _rows("--beta", metavar="N", help="Cells of the output's pool, beside the prompt's.")
    ] = 512
    budget: Annotated[
        str | None,
        _rows("--budget", metavar="CELLS", help="Cells for prompt and output, instead of --beta."),
    ] = None
    flash_attn: Annotated[
        str,
        _rows(
            "--flash-attn",
            "-fa",
            metavar="on|off,...",
            help="Of bounded rows; full ones are always measured with both.",
        ),
    ] = "on,off"
    type_k: Annotated[
        str, _rows("--cache-type-k", "-ctk", metavar="TYPE", help="KV cache type of K.")
    ] = "f16"
    type_v: Annotated[
        str, _rows("--cache-type-v", "-ctv", metavar="TYPE", help="KV cache type of V.")
    ] = "f16"
    stock: Annotated[
        str | None,
        _rows(
            "--stock",
            metavar="FOLDER",
            help="An unpatched libllama for the full rows.",
            show_default="ours, hooks off",
        ),
    ] = None
    n_gpu_layers: Annotated[
        str | None,
        _rows(
            "--n-gpu-layers",
            "--gpu-layers",
            "-ngl",
            metavar="N|auto|all",
            help="Layers to offload.",
        ),
    ] = None
    no_mmap: Annotated[bool, _rows("--no-mmap", help="Read the file instead of mapping it.")] = (
        False
    )


@dataclass(frozen=True)
class BenchOutputFlags:
    """What is printed."""

    output: Annotated[
        Literal["md", "csv", "json", "jsonl"],
        _output("--output", "-o", metavar="md|csv|json|jsonl", help="What stdout gets."),
    ] = "md"
    plot: Annotated[
        str | None,
        _output("--plot", metavar="FILE.png", help="Draw speed and memory against the position."),
    ] = None
    progress: Annotated[bool, _output("--progress", help="Say on stderr what is measured.")] = False
    verbose: Verbose = False
    config: Config = None


def request_of(
    path: str,
    test: BenchFlags,
    row: RowFlags,
    compute: ComputeFlags,
) -> Request:
    """Return what the flags ask for.

    Raises
    ------
    UsageError
        For a list or a name that is none.
    """
    from scope_cpp.bench.request import Request
    from scope_cpp.bench.row import Compute

    from .convert import gpu_layers

    return Request(
        Compute(
            path,
            n_threads=compute.n_threads or 0,
            n_threads_batch=compute.n_threads_batch or 0,
            n_batch=compute.n_batch,
            n_ubatch=compute.n_ubatch,
            type_k=row.type_k,
            type_v=row.type_v,
            n_gpu_layers=gpu_layers(row.n_gpu_layers),
            use_mmap=not row.no_mmap,
            seed=test.seed,
        ),
        tests=names("--test", test.tests or ("gen" if test.n_parallel is None else "parallel")),
        n_prompts=numbers("-p", test.n_prompt),
        depths=numbers("-d", test.n_depth),
        n_parallel=numbers("-np", test.n_parallel) or (1, 2, 4, 8),
        n_gen=test.n_gen,
        repetitions=test.repetitions,
        flash=names("-fa", row.flash_attn),
        policies=tuple(name for text in row.policy or () for name in names("--policy", text)),
        prefills=names("--prefill", row.prefill),
        granularities=names("--granularity", row.granularity),
        options=tuple(row.option or ()),
        beta=row.beta,
        budget=row.budget,
        fill=test.fill,
        stock=row.stock,
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
    from scope_cpp.errors import UsageError

    if text is None:
        return ()
    try:
        return tuple(dict.fromkeys(int(part) for part in text.split(",")))
    except ValueError:
        raise UsageError(f"{name} {text}: give whole numbers, such as 4096,16384") from None
