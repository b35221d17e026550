"""The flags of ``scope serve``: where it listens, who is let in, and how much at once."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from .flags import ANOTHER_TEMPLATE, TEMPLATE_FILE, TEMPLATES, Config, Verbose
from .groups import flag, given
from .help_page import OUTPUT

if TYPE_CHECKING:
    from scope_cpp.serve.options import Options

_server = partial(flag, "Server")
_rows = partial(flag, "Answers at once")
_limits = partial(flag, "Limits of a request")
_output = partial(flag, OUTPUT)


@dataclass(frozen=True)
class ServerFlags:
    """Where it listens, and who is let in."""

    DEFAULTS: ClassVar[str] = "serve.options:Options"

    host: Annotated[
        str | None,
        _server(
            "--host",
            metavar="ADDRESS",
            help="Listen on this address. One that other machines reach needs a key.",
        ),
    ] = None
    port: Annotated[
        int | None,
        _server(
            "--port", min=0, max=65535, metavar="N", help="Listen on this port; 0 takes a free one."
        ),
    ] = None
    api_key: Annotated[
        str | None,
        _server(
            "--api-key",
            metavar="KEY[,KEY]",
            help="Let in only clients that send one of these keys.",
            show_default=False,
        ),
    ] = None
    api_key_file: Annotated[
        str | None,
        _server(
            "--api-key-file",
            metavar="FILE",
            help="Read the keys from a file, one on each line.",
            show_default=False,
        ),
    ] = None
    insecure_no_key: Annotated[
        bool,
        _server("--insecure-no-key", help="Let in everybody who can reach the address."),
    ] = False
    alias: Annotated[
        str | None,
        _server(
            "--alias",
            "-a",
            metavar="NAME",
            help="What clients call the model.",
            show_default="the name of its file",
        ),
    ] = None
    chat_template: Annotated[
        str | None,
        _server(
            "--chat-template",
            metavar="NAME|JINJA",
            choices=TEMPLATES,
            help=ANOTHER_TEMPLATE,
            show_default=False,
        ),
    ] = None
    chat_template_file: Annotated[
        str | None,
        _server(
            "--chat-template-file",
            metavar="FILE",
            help=TEMPLATE_FILE,
            show_default=False,
        ),
    ] = None


@dataclass(frozen=True)
class ParallelFlags:
    """How many answers are written at once, and in how many cells."""

    DEFAULTS: ClassVar[str] = "serve.options:Options"

    n_parallel: Annotated[
        int | None,
        _rows("--parallel", "-np", min=1, metavar="N", help="Number of answers written at once."),
    ] = None
    cells: Annotated[
        str | None,
        _rows(
            "--cells",
            metavar="CELLS",
            help="KV cells of all answers together, never exceeded: 16k, memory with all"
            " buffers (512MiB), or auto.",
            show_default="{serve.options:CELLS_PER_ROW} for each answer, at most half of the free"
            " memory",
        ),
    ] = None
    prefix_cache: Annotated[
        str | None,
        _rows(
            "--prefix-cache",
            metavar="SIZE",
            help="How many of these cells finished conversations may keep, so that their next"
            " message is not read from the beginning: 64MiB, 4k, or 0. With a model that has"
            " sliding windows or recurrent states it is as much memory, beside the cells.",
            show_default="half of the cells; beside the cells also room for eight conversations'"
            " windows and states, within a quarter of the free memory",
        ),
    ] = None
    queue: Annotated[
        int | None,
        _rows(
            "--queue",
            min=0,
            metavar="N",
            help="Number of answers that may wait for room. Requests beyond it get status 429.",
        ),
    ] = None


@dataclass(frozen=True)
class LimitFlags:
    """What one request may ask for."""

    DEFAULTS: ClassVar[str] = "serve.options:Options"

    n_predict: Annotated[
        int | None,
        _limits(
            "--n-predict", "--predict", "-n", min=1, metavar="N", help="Longest answer in tokens."
        ),
    ] = None
    timeout: Annotated[
        float | None,
        _limits(
            "--timeout",
            "-to",
            metavar="SECONDS",
            help="Longest time for an answer, including the time that it waits.",
        ),
    ] = None
    body_timeout: Annotated[
        float | None,
        _limits("--body-timeout", metavar="SECONDS", help="Longest time for a request to arrive."),
    ] = None
    max_body: Annotated[
        str | None,
        _limits(
            "--max-body",
            metavar="SIZE",
            help="Largest request.",
            show_default="{serve.options:Options.max_body!bytes}",
        ),
    ] = None
    max_connections: Annotated[
        int | None,
        _limits("--max-connections", min=1, metavar="N", help="Most connections open at once."),
    ] = None
    grace: Annotated[
        float | None,
        _limits(
            "--grace",
            metavar="SECONDS",
            help="Time that running answers get to finish when the server is stopped.",
        ),
    ] = None


@dataclass(frozen=True)
class ServeOutputFlags:
    """What is printed."""

    log_prompts: Annotated[bool, _output("--log-prompts", help="Print the prompts on stderr.")] = (
        False
    )
    json: Annotated[
        bool, _output("--json", help="Print one JSON object on stdout once the server listens.")
    ] = False
    verbose: Verbose = False
    config: Config = None


def options_of(
    server: ServerFlags, rows: ParallelFlags, limits: LimitFlags, output: ServeOutputFlags
) -> Options:
    """Return what the flags ask for; what they leave out has the default of `Options`.

    Raises
    ------
    UsageError
        For a value out of range, or a file that can't be read.
    """
    from scope_cpp.serve.options import Options

    values: dict[str, Any] = {
        "host": server.host,
        "port": server.port,
        **asdict(rows),
        **asdict(limits),
        "max_body": None if limits.max_body is None else _bytes(limits.max_body),
    }
    return Options(
        api_keys=_keys(server),
        insecure_no_key=server.insecure_no_key,
        log_prompts=output.log_prompts,
        **given(values),
    )


def _bytes(size: str) -> int:
    from scope_cpp.engine.budget import parse_size

    return parse_size(size, "--max-body")


def _keys(server: ServerFlags) -> tuple[str, ...]:
    from .prompt import read_text

    keys = [] if server.api_key is None else server.api_key.split(",")
    if server.api_key_file is not None:
        keys += read_text("--api-key-file", server.api_key_file).splitlines()
    return tuple(key.strip() for key in keys)
