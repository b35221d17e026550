"""The flags of ``scope serve``: where it listens, who is let in, and how much at once."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Annotated

from .flags import Config, Verbose
from .groups import flag

if TYPE_CHECKING:
    from scope_cpp.serve.options import Options

_server = partial(flag, "Server")
_rows = partial(flag, "Rows")
_limits = partial(flag, "Limits")
_output = partial(flag, "Output")


@dataclass(frozen=True)
class ServerFlags:
    """Where it listens, and who is let in."""

    host: Annotated[
        str, _server("--host", metavar="ADDRESS", help="Listen here; others than this need a key.")
    ] = "127.0.0.1"
    port: Annotated[
        int, _server("--port", min=0, max=65535, metavar="N", help="0 takes a free one.")
    ] = 8080
    api_key: Annotated[
        str | None,
        _server("--api-key", metavar="KEY[,KEY]", help="Let in who sends one of these."),
    ] = None
    api_key_file: Annotated[
        str | None,
        _server("--api-key-file", metavar="FILE", help="The same from a file, a key a line."),
    ] = None
    insecure_no_key: Annotated[
        bool, _server("--insecure-no-key", help="Let everybody in who can reach the address.")
    ] = False
    alias: Annotated[
        str | None,
        _server(
            "--alias", "-a", metavar="NAME", help="What clients call the model.",
            show_default="its file's name",
        ),
    ] = None  # fmt: skip
    chat_template: Annotated[
        str | None, _server("--chat-template", metavar="JINJA", help="Instead of the model's.")
    ] = None
    chat_template_file: Annotated[
        str | None, _server("--chat-template-file", metavar="FILE", help="The same from a file.")
    ] = None


@dataclass(frozen=True)
class ParallelFlags:
    """How many answers are written at once, and in how many cells."""

    n_parallel: Annotated[
        int, _rows("--parallel", "-np", min=1, metavar="N", help="Answers written at once.")
    ] = 4
    cells: Annotated[
        str | None,
        _rows(
            "--cells",
            metavar="CELLS",
            help="KV cells of all of them together, never exceeded: 16k, 512MiB or auto.",
            show_default="4096 for each, at most half of the free memory",
        ),
    ] = None
    prefix_cache: Annotated[
        str | None,
        _rows(
            "--prefix-cache",
            metavar="SIZE",
            help="What of the cells finished rows may keep, so that a conversation that comes "
            "back is not read again: 64MiB, 4k, or 0.",
            show_default="half of the cells",
        ),
    ] = None
    queue: Annotated[
        int, _rows("--queue", min=0, metavar="N", help="Answers that may wait; more get 429.")
    ] = 64


@dataclass(frozen=True)
class LimitFlags:
    """What one request may ask for."""

    n_predict: Annotated[
        int,
        _limits("--n-predict", "--predict", "-n", min=1, metavar="N", help="Longest answer."),
    ] = 4096
    timeout: Annotated[
        float,
        _limits("--timeout", "-to", metavar="SECONDS", help="For an answer, waiting included."),
    ] = 600.0
    body_timeout: Annotated[
        float, _limits("--body-timeout", metavar="SECONDS", help="For a request to arrive.")
    ] = 30.0
    max_body: Annotated[str, _limits("--max-body", metavar="SIZE", help="Of a request.")] = "4MiB"
    max_connections: Annotated[
        int, _limits("--max-connections", min=1, metavar="N", help="Open at once.")
    ] = 256
    grace: Annotated[
        float,
        _limits("--grace", metavar="SECONDS", help="For running answers when the server ends."),
    ] = 30.0


@dataclass(frozen=True)
class ServeOutputFlags:
    """What is printed."""

    log_prompts: Annotated[bool, _output("--log-prompts", help="Print prompts on stderr.")] = False
    json: Annotated[
        bool, _output("--json", help="Print one JSON object on stdout once it listens.")
    ] = False
    verbose: Verbose = False
    config: Config = None


def options_of(
    server: ServerFlags, rows: ParallelFlags, limits: LimitFlags, output: ServeOutputFlags
) -> Options:
    """Return what the flags ask for.

    Raises
    ------
    UsageError
        For a value out of range, or a file that can't be read.
    """
    from scope_cpp.engine.budget import parse_budget
    from scope_cpp.errors import UsageError
    from scope_cpp.serve.options import Options

    most = parse_budget(limits.max_body)
    if most.kind not in ("bytes", "cells"):  # a number alone is bytes too
        raise UsageError(f"--max-body {limits.max_body}: give a size, such as 4MiB")
    return Options(
        host=server.host,
        port=server.port,
        api_keys=_keys(server),
        insecure_no_key=server.insecure_no_key,
        n_parallel=rows.n_parallel,
        queue=rows.queue,
        cells=rows.cells,
        prefix_cache=rows.prefix_cache,
        n_predict=limits.n_predict,
        max_body=int(most.value),
        timeout=limits.timeout,
        body_timeout=limits.body_timeout,
        grace=limits.grace,
        max_connections=limits.max_connections,
        log_prompts=output.log_prompts,
    )


def _keys(server: ServerFlags) -> tuple[str, ...]:
    from .prompt import read_text

    keys = [] if server.api_key is None else server.api_key.split(",")
    if server.api_key_file is not None:
        keys += read_text("--api-key-file", server.api_key_file).splitlines()
    return tuple(key.strip() for key in keys)
