"""The flags: names and meaning as llama.cpp's where llama.cpp has them.

``None`` means "not given": the engine's default, or the model's own, applies. Help takes the
defaults from the engine's classes (see derive.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Annotated, ClassVar

import typer

from . import completion
from .config import read_config
from .groups import flag
from .help_page import OUTPUT

CACHE = "KV cache and eviction"
SAMPLING = "Sampling (values in the model's file replace defaults)"

_model = partial(flag, "Model")
_prompt = partial(flag, "Prompt")
_cache = partial(flag, CACHE)
_sampling = partial(flag, SAMPLING)
_compute = partial(flag, "Compute")
_output = partial(flag, OUTPUT)

Config = Annotated[
    str | None,
    _output(
        "--config",
        metavar="FILE",
        callback=read_config,
        is_eager=True,
        help="Read options from a TOML file, with lines such as budget = 512. The command line and"
        " environment variables win over the file.",
    ),
]
Json = Annotated[bool, _output("--json", help="Print one JSON object on stdout.")]
Verbose = Annotated[
    bool,
    _output(
        "--verbose",
        "-v",
        help="Show llama.cpp's log, the settings in force, statistics, and the traceback of an"
        " unexpected error.",
    ),
]
ANOTHER_TEMPLATE = (
    "Use this chat template instead of the model's own: Jinja text, or the name of one of "
    "llama.cpp's, such as chatml."
)
TEMPLATES = "engine.chat:template_names"
TEMPLATE_FILE = "Use the chat template in this file."
NoEscape = Annotated[
    bool,
    _prompt(
        "--no-escape",
        help="Take the text of -p and --stop as it is. Otherwise escapes such as \\n are read.",
    ),
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
        str | None,
        typer.Argument(
            metavar="MODEL",
            help="The model: a GGUF file, or a name such as smollm2, which is downloaded once.",
            show_default=False,
        ),
    ] = None
    model: Annotated[
        str | None,
        _model(
            "--model",
            "-m",
            metavar="FILE|NAME",
            complete=completion.model_names,
            help="The model, as an option instead of an argument: a GGUF file, or a name of these,"
            " which is downloaded once: {engine.catalog:NAMES}.",
        ),
    ] = None
    hf_repo: Annotated[
        str | None,
        _model(
            "--hf-repo",
            "-hf",
            "-hfr",
            metavar="USER/REPO[:QUANT]",
            help="Take the model from the Hugging Face Hub. It is downloaded once. Without QUANT"
            " the first of these that the repository has is taken: {engine.hub:DEFAULT_QUANTS}.",
        ),
    ] = None
    hf_file: Annotated[
        str | None,
        _model("--hf-file", "-hff", metavar="FILE", help="Take this file of the Hub's repository."),
    ] = None
    offline: Annotated[
        bool, _model("--offline", help="Use only what is downloaded; never access the network.")
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
            complete=completion.words("auto", "all"),
            help="Number of layers that are computed on the GPU.",
            show_default="all",
        ),
    ] = None
    split_mode: Annotated[
        str | None,
        _model(
            "--split-mode",
            "-sm",
            choices="engine.context_params:SPLIT_MODES",
            help="How several GPUs share the model.",
            show_default="layer",
        ),
    ] = None
    main_gpu: Annotated[
        int | None,
        _model(
            "--main-gpu",
            "-mg",
            min=0,
            metavar="INDEX",
            help="The GPU that computes alone if the model is not split.",
            show_default="0",
        ),
    ] = None
    tensor_split: Annotated[
        str | None,
        _model(
            "--tensor-split",
            "-ts",
            metavar="N0,N1,...",
            help="Each GPU's share of the model. 3,1 puts three quarters on the first one.",
        ),
    ] = None
    no_mmap: Annotated[
        bool, _model("--no-mmap", help="Read the file into memory instead of mapping it.")
    ] = False
    mlock: Annotated[bool, _model("--mlock", help="Keep the system from swapping the model.")] = (
        False
    )


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
            help="Read the prompt from a file, as it is; - is stdin. Text that is piped in needs no"
            " option.",
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
        _prompt(
            "--chat",
            help="Use the chat template, and fail if there is none. Without this option a model"
            " that has no template continues the text.",
        ),
    ] = False
    system_prompt: Annotated[
        str | None,
        _prompt(
            "--system-prompt", "-sys", metavar="TEXT", help="A system message before the prompt."
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
    no_parse_special: NoParseSpecial = False
    no_escape: NoEscape = False


@dataclass(frozen=True)
class BudgetFlags:
    """How large the cache is and how it is stored."""

    DEFAULTS: ClassVar[str] = "engine.settings:Settings"

    budget: Annotated[
        str | None,
        _cache(
            "--budget",
            metavar="CELLS",
            help="KV cells for prompt and output together: a number (2048, 2k), a share of the"
            " full length (50%), memory with all buffers (512MiB), or auto, which is half of the"
            " free memory.",
            show_default="the prompt's tokens and {engine.budget:DEFAULT_GENERATED_CELLS}",
        ),
    ] = None
    ctx_size: Annotated[
        int | None,
        _cache(
            "--ctx-size",
            "-c",
            min=1,
            metavar="N",
            help="Longest prompt and output together, in tokens.",
        ),
    ] = None
    type_k: Annotated[
        str | None,
        _cache(
            "--cache-type-k",
            "-ctk",
            metavar="TYPE",
            choices="engine.kv_types:KV_TYPES",
            help="Type in which K is stored: {engine.kv_types:KV_TYPES}.",
        ),
    ] = None
    type_v: Annotated[
        str | None,
        _cache(
            "--cache-type-v",
            "-ctv",
            metavar="TYPE",
            choices="engine.kv_types:KV_TYPES",
            help="Type in which V is stored; the same types.",
        ),
    ] = None
    flash_attn: Annotated[
        str | None,
        _cache(
            "--flash-attn",
            "-fa",
            choices="engine.context_params:FLASH_ATTN",
            help="Whether to use flash attention. With auto it is off for a bounded cache on a CPU,"
            " where that is faster.",
        ),
    ] = None


@dataclass(frozen=True)
class PolicyFlags:
    """What is evicted."""

    DEFAULTS: ClassVar[str] = "engine.settings:Settings"

    policy: Annotated[
        str | None,
        _cache(
            "--policy",
            metavar="NAME",
            choices="policies:decode_names",
            help="Which cells of the output stay (docs/policies.md): {policies:decode_names}.",
            show_default="{engine.settings:DEFAULT_POLICY}",
        ),
    ] = None
    prefill: Annotated[
        str | None,
        _cache(
            "--prefill",
            metavar="NAME",
            choices="policies:prefill_names",
            help="Which cells of the prompt stay: {policies:prefill_names}.",
        ),
    ] = None
    granularity: Annotated[
        str | None,
        _cache(
            "--granularity",
            choices="engine.settings:GRANULARITIES",
            help="Whether each KV head chooses its own cells, or one choice holds for all.",
        ),
    ] = None
    option: Annotated[
        list[str] | None,
        _cache(
            "--option",
            "-o",
            metavar="KEY=VALUE",
            complete=completion.options,
            help="Set an option of the policies, such as beta1=48. Repeat it for several.",
            show_default=False,
        ),
    ] = None


@dataclass(frozen=True)
class SamplingFlags:
    """How the next token is chosen; the names are those of the engine's parameters."""

    DEFAULTS: ClassVar[str] = "engine.sampling_params:SamplingParams"

    temp: Annotated[
        float | None,
        _sampling(
            "--temp",
            "--temperature",
            metavar="T",
            help="Temperature. At 0 the most likely token is always taken.",
        ),
    ] = None
    top_k: Annotated[
        int | None,
        _sampling("--top-k", metavar="K", help="Draw from the K most likely tokens; 0 is off."),
    ] = None
    top_p: Annotated[
        float | None,
        _sampling(
            "--top-p",
            metavar="P",
            help="Draw from the most likely tokens that have the probability P together; 1 is off.",
        ),
    ] = None
    min_p: Annotated[
        float | None,
        _sampling(
            "--min-p",
            metavar="P",
            help="Leave out tokens less likely than P times the most likely one; 0 is off.",
        ),
    ] = None
    typical_p: Annotated[
        float | None,
        _sampling(
            "--typical",
            "--typical-p",
            metavar="P",
            help="Locally typical sampling with the probability P; 1 is off.",
        ),
    ] = None
    repeat_penalty: Annotated[
        float | None,
        _sampling(
            "--repeat-penalty", metavar="X", help="Penalty for tokens that occurred; 1 is off."
        ),
    ] = None
    repeat_last_n: Annotated[
        int | None,
        _sampling(
            "--repeat-last-n", metavar="N", help="Number of last tokens that the penalties look at."
        ),
    ] = None
    presence_penalty: Annotated[
        float | None,
        _sampling(
            "--presence-penalty",
            metavar="X",
            help="Taken off the logit of each token that occurred; 0 is off.",
        ),
    ] = None
    frequency_penalty: Annotated[
        float | None,
        _sampling(
            "--frequency-penalty",
            metavar="X",
            help="Taken off a token's logit each time that it occurred; 0 is off.",
        ),
    ] = None
    seed: Annotated[
        int | None,
        _sampling(
            "--seed", "-s", metavar="N", help="Seed of the random draws; -1 takes a random one."
        ),
    ] = None
    grammar: Annotated[
        str | None,
        _sampling("--grammar", metavar="GBNF", help="Constrain the output to this grammar."),
    ] = None
    grammar_file: Annotated[
        str | None,
        _sampling(
            "--grammar-file",
            metavar="FILE",
            help="Constrain the output to the grammar in this file.",
            show_default=False,
        ),
    ] = None
    json_schema: Annotated[
        str | None,
        _sampling(
            "--json-schema",
            "-j",
            metavar="SCHEMA",
            help="Constrain the output to this JSON schema.",
        ),
    ] = None
    json_schema_file: Annotated[
        str | None,
        _sampling(
            "--json-schema-file",
            "-jf",
            metavar="FILE",
            help="Constrain the output to the JSON schema in this file.",
            show_default=False,
        ),
    ] = None
    logit_bias: Annotated[
        list[str] | None,
        _sampling(
            "--logit-bias",
            "-l",
            metavar="TOKEN=BIAS",
            help="Add a bias to a token's logit: 15043=-2, 15043+1, or 15043=-inf to forbid it."
            " Repeat it for several.",
            show_default=False,
        ),
    ] = None
    ignore_eos: Annotated[
        bool,
        _sampling(
            "--ignore-eos", help="Forbid the tokens that end an output: it gets its full length."
        ),
    ] = False


@dataclass(frozen=True)
class LengthFlags:
    """When the output ends."""

    n_predict: Annotated[
        int,
        _output(
            "--n-predict",
            "--predict",
            "-n",
            metavar="N",
            help="Longest output in tokens; -1 sets no limit.",
            show_default="no limit",
        ),
    ] = -1
    stop: Annotated[
        list[str] | None,
        _output(
            "--stop",
            "--reverse-prompt",
            "-r",
            metavar="TEXT",
            help="End the output before this text. Repeat it for several.",
        ),
    ] = None


@dataclass(frozen=True)
class ComputeFlags:
    """How llama.cpp computes."""

    DEFAULTS: ClassVar[str] = "engine.settings:Settings"

    n_threads: Annotated[
        int | None,
        _compute(
            "--threads",
            "-t",
            min=1,
            metavar="N",
            help="CPU threads.",
            show_default="one for each physical core",
        ),
    ] = None
    n_threads_batch: Annotated[
        int | None,
        _compute(
            "--threads-batch",
            "-tb",
            min=1,
            metavar="N",
            help="CPU threads for reading prompts.",
            show_default="as --threads",
        ),
    ] = None
    n_batch: Annotated[
        int | None,
        _compute(
            "--batch-size",
            "-b",
            min=1,
            metavar="N",
            help="Most tokens of a prompt that are handed to llama.cpp at once.",
        ),
    ] = None
    n_ubatch: Annotated[
        int | None,
        _compute(
            "--ubatch-size",
            "-ub",
            min=1,
            metavar="N",
            help="Most of these tokens that are computed at once. Where flash attention is off it"
            " is {engine.context_params:PLAIN_UBATCH} at most.",
        ),
    ] = None


@dataclass(frozen=True)
class OutputFlags:
    """What is printed."""

    json: Json = False
    verbose: Verbose = False
    config: Config = None
