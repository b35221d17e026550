"""The flags: names and meaning as llama.cpp's where llama.cpp has them.

``None`` means "not given": the engine's default, or the model's own, applies.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Annotated, Literal

import typer

from .config import read_config
from .groups import flag

_model = partial(flag, "Model")
_prompt = partial(flag, "Prompt")
_cache = partial(flag, "KV cache and eviction")
_sampling = partial(flag, "Sampling (a model's own values replace these defaults)")
_compute = partial(flag, "Compute")
_output = partial(flag, "Output")

Config = Annotated[
    str | None,
    _output(
        "--config",
        metavar="FILE",
        callback=read_config,
        is_eager=True,
        help="TOML file of flags, such as budget = 512. Flags and variables win over it.",
    ),
]
Json = Annotated[bool, _output("--json", help="Print one JSON object on stdout.")]
Verbose = Annotated[
    bool, _output("--verbose", "-v", help="Show llama.cpp's log, statistics and tracebacks.")
]
NoParseSpecial = Annotated[
    bool,
    _prompt(
        "--no-parse-special",
        help="In text to continue, read control tokens such as <|im_start|> as plain text.",
    ),
]


@dataclass(frozen=True)
class ModelFlags:
    """Which file, or where it comes from."""

    model_path: Annotated[
        str | None, typer.Argument(metavar="MODEL", help="A GGUF file.", show_default=False)
    ] = None
    model: Annotated[
        str | None, _model("--model", "-m", metavar="FILE", help="The same as a flag.")
    ] = None
    hf_repo: Annotated[
        str | None,
        _model(
            "--hf-repo",
            "-hf",
            "-hfr",
            metavar="USER/REPO[:QUANT]",
            help="A model of the Hugging Face Hub, downloaded once.",
            show_default="of QUANT: Q4_K_M",
        ),
    ] = None
    hf_file: Annotated[
        str | None,
        _model("--hf-file", "-hff", metavar="FILE", help="This file of the repository."),
    ] = None
    offline: Annotated[
        bool, _model("--offline", help="Take what is downloaded already, ask no network.")
    ] = False

    @property
    def named(self) -> bool:
        """Whether any model is given."""
        return bool(self.model_path or self.model or self.hf_repo)


@dataclass(frozen=True)
class PlacementFlags:
    """How the model is loaded."""

    n_gpu_layers: Annotated[
        str | None,
        _model(
            "--n-gpu-layers",
            "--gpu-layers",
            "-ngl",
            metavar="N|auto|all",
            help="Layers to offload.",
        ),
    ] = None
    split_mode: Annotated[
        str | None,
        _model(
            "--split-mode",
            "-sm",
            metavar="none|layer|row|tensor",
            help="How several GPUs share the model.",
        ),
    ] = None
    main_gpu: Annotated[
        int | None, _model("--main-gpu", "-mg", min=0, metavar="INDEX", help="The GPU to use.")
    ] = None
    tensor_split: Annotated[
        str | None,
        _model("--tensor-split", "-ts", metavar="N0,N1,...", help="Share of each GPU: 3,1."),
    ] = None
    no_mmap: Annotated[bool, _model("--no-mmap", help="Read the file instead of mapping it.")] = (
        False
    )
    mlock: Annotated[bool, _model("--mlock", help="Keep the model from being swapped out.")] = False


@dataclass(frozen=True)
class PromptFlags:
    """What the model reads."""

    prompt: Annotated[str | None, _prompt("--prompt", "-p", metavar="TEXT", help="The prompt.")] = (
        None
    )
    file: Annotated[
        str | None,
        _prompt(
            "--file",
            "-f",
            metavar="FILE",
            help="Read the prompt from a file, as it is; - is stdin (also if piped).",
        ),
    ] = None
    raw: Annotated[
        bool,
        _prompt(
            "--raw",
            "--no-conversation",
            "-no-cnv",
            help="Continue the text as it is. Otherwise, where the model has a chat template, the"
            " prompt is a user's message and the output is the answer.",
        ),
    ] = False
    chat: Annotated[
        bool,
        _prompt("--chat", help="Use a chat template, or fail (the default where there is one)."),
    ] = False
    system_prompt: Annotated[
        str | None,
        _prompt(
            "--system-prompt", "-sys", metavar="TEXT", help="A system message before the prompt."
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
    no_parse_special: NoParseSpecial = False


@dataclass(frozen=True)
class BudgetFlags:
    """How large the cache is and how it is stored."""

    budget: Annotated[
        str | None,
        _cache(
            "--budget",
            metavar="CELLS",
            help="KV cells for prompt and output: 2048, 2k, 50%, 512MiB or auto.",
            show_default="the prompt and 1024",
        ),
    ] = None
    ctx_size: Annotated[
        int | None,
        _cache("--ctx-size", "-c", min=1, metavar="N", help="Longest prompt and output together."),
    ] = None
    type_k: Annotated[
        str, _cache("--cache-type-k", "-ctk", metavar="TYPE", help="KV cache type of K.")
    ] = "f16"
    type_v: Annotated[
        str, _cache("--cache-type-v", "-ctv", metavar="TYPE", help="KV cache type of V.")
    ] = "f16"
    flash_attn: Annotated[
        Literal["on", "off", "auto"],
        _cache(
            "--flash-attn",
            "-fa",
            metavar="on|off|auto",
            help="Flash attention; auto: off for a bounded cache on a CPU, where that is faster.",
        ),
    ] = "auto"


@dataclass(frozen=True)
class PolicyFlags:
    """What is evicted."""

    policy: Annotated[
        str | None,
        _cache(
            "--policy",
            metavar="NAME",
            help="full, streaming-llm, h2o, scope-slide, scope-foresight, scope-adaptive,"
            " scope-discontinuous, tova, vatp, r-kv, g-kv, openvino or pyramidinfer;"
            " docs/policies.md has what each keeps.",
            show_default="scope-slide -o interval=auto",
        ),
    ] = None
    prefill: Annotated[
        str,
        _cache(
            "--prefill",
            metavar="NAME",
            help="What of the prompt stays: full, h2o, snapkv, streaming-llm, pyramidkv or"
            " pyramidinfer.",
        ),
    ] = "full"
    granularity: Annotated[
        str,
        _cache("--granularity", metavar="head|cell", help="Each KV head chooses, or one for all."),
    ] = "head"
    option: Annotated[
        list[str] | None,
        _cache(
            "--option",
            "-o",
            metavar="KEY=VALUE",
            help="An option of the policies (beta1=48), repeatable.",
        ),
    ] = None


@dataclass(frozen=True)
class SamplingFlags:
    """How the next token is chosen; the names are those of the engine's parameters."""

    temp: Annotated[
        float | None,
        _sampling("--temp", "--temperature", metavar="T", help="0 is greedy.", show_default="0.8"),
    ] = None
    top_k: Annotated[
        int | None, _sampling("--top-k", metavar="K", help="0 is off.", show_default="40")
    ] = None
    top_p: Annotated[
        float | None, _sampling("--top-p", metavar="P", help="1 is off.", show_default="0.95")
    ] = None
    min_p: Annotated[
        float | None, _sampling("--min-p", metavar="P", help="0 is off.", show_default="0.05")
    ] = None
    typical_p: Annotated[
        float | None,
        _sampling(
            "--typical",
            "--typical-p",
            metavar="P",
            help="Locally typical; 1 is off.",
            show_default="1",
        ),
    ] = None
    repeat_penalty: Annotated[
        float | None, _sampling("--repeat-penalty", metavar="X", help="1 is off.", show_default="1")
    ] = None
    repeat_last_n: Annotated[
        int | None,
        _sampling("--repeat-last-n", metavar="N", help="Tokens penalised.", show_default="64"),
    ] = None
    presence_penalty: Annotated[
        float | None,
        _sampling("--presence-penalty", metavar="X", help="0 is off.", show_default="0"),
    ] = None
    frequency_penalty: Annotated[
        float | None,
        _sampling("--frequency-penalty", metavar="X", help="0 is off.", show_default="0"),
    ] = None
    seed: Annotated[
        int | None, _sampling("--seed", "-s", metavar="N", help="-1 draws one.", show_default="-1")
    ] = None
    grammar: Annotated[
        str | None, _sampling("--grammar", metavar="GBNF", help="Constrain the output.")
    ] = None
    grammar_file: Annotated[
        str | None, _sampling("--grammar-file", metavar="FILE", help="The same from a file.")
    ] = None
    json_schema: Annotated[
        str | None, _sampling("--json-schema", metavar="JSON", help="Constrain it to JSON.")
    ] = None
    logit_bias: Annotated[
        list[str] | None,
        _sampling(
            "--logit-bias",
            "-l",
            metavar="TOKEN=BIAS",
            help="Add to a token's logit (15043=-2, 15043+1, 15043=-inf), repeatable.",
        ),
    ] = None
    ignore_eos: Annotated[
        bool, _sampling("--ignore-eos", help="Never end before the length is reached.")
    ] = False


@dataclass(frozen=True)
class LengthFlags:
    """When the output ends."""

    n_predict: Annotated[
        int,
        _output(
            "--n-predict", "--predict", "-n", metavar="N", help="Longest output; -1: no limit."
        ),
    ] = -1
    stop: Annotated[
        list[str] | None,
        _output("--stop", metavar="TEXT", help="End before this text, repeatable."),
    ] = None


@dataclass(frozen=True)
class ComputeFlags:
    """How llama.cpp computes."""

    n_threads: Annotated[
        int | None,
        _compute("--threads", "-t", min=1, metavar="N", help="CPU threads.", show_default="cores"),
    ] = None
    n_threads_batch: Annotated[
        int | None,
        _compute("--threads-batch", "-tb", min=1, metavar="N", help="The same for the prompt."),
    ] = None
    n_batch: Annotated[
        int, _compute("--batch-size", "-b", min=1, metavar="N", help="Tokens of a logical batch.")
    ] = 2048
    n_ubatch: Annotated[
        int, _compute("--ubatch-size", "-ub", min=1, metavar="N", help="Of a physical batch.")
    ] = 512


@dataclass(frozen=True)
class OutputFlags:
    """What is printed."""

    json: Json = False
    verbose: Verbose = False
    config: Config = None
