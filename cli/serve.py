"""``scope serve``."""

from __future__ import annotations

import typer

from .app import shows_first
from .flags import (
    BudgetFlags,
    ComputeFlags,
    ModelFlags,
    PlacementFlags,
    PolicyFlags,
    SamplingFlags,
)
from .serve_flags import LimitFlags, ParallelFlags, ServeOutputFlags, ServerFlags


@shows_first(
    "-hf", "--host", "--port", "--api-key", "-np", "--cells", "--budget", "--policy", "-n", "-ngl"
)
def serve(
    ctx: typer.Context,
    model: ModelFlags,
    server: ServerFlags,
    rows: ParallelFlags,
    limits: LimitFlags,
    budget: BudgetFlags,
    policy: PolicyFlags,
    sampling: SamplingFlags,
    placement: PlacementFlags,
    compute: ComputeFlags,
    output: ServeOutputFlags,
) -> None:
    """Serve a model over OpenAI's HTTP interface, with a page for chatting.

    scope serve model.gguf -np 4 --cells 16k --budget 2k
    """
    import os
    from contextlib import ExitStack

    from scope_cpp.engine import transcript
    from scope_cpp.serve import require_extra

    from . import convert, process, shipped, terminal
    from .interrupt import exit_at_once
    from .prompt import template_of
    from .serve_flags import options_of

    options = options_of(server, rows, limits, output)
    settings = convert.settings(budget, policy, compute)
    values = convert.sampling_values(sampling)
    template = template_of(server.chat_template, server.chat_template_file)
    require_extra()
    from scope_cpp.serve.lifespan import Service
    from scope_cpp.serve.options import bind
    from scope_cpp.serve.serving import make_serving

    path = convert.model_path(model, ctx, shipped.path)
    process.prepare(verbose=output.verbose)
    with ExitStack() as opened:
        with exit_at_once():
            listener = opened.enter_context(bind(options))
            loaded = opened.enter_context(convert.load_model(path, placement))
            if template is not None and (problem := transcript.problem(loaded, template)):
                raise problem
            service = Service(
                make_serving(
                    loaded, options, server.alias, settings, values, template, terminal.warning
                ),
                options,
                listener,
                example=None if model.named else shipped.EXAMPLE,
                warn=terminal.warning,
                note=terminal.note,
                verbose=output.verbose,
            )
        if not model.named:
            shipped.introduce()
        if transcript.is_plain(loaded, template):
            terminal.warning(transcript.PLAIN_WARNING)
        elif template is None and (problem := transcript.problem(loaded, None)):
            terminal.warning(f"requests with messages will fail: {problem}")
        if output.json:
            terminal.write_json(service.facts)
        terminal.note(service.line)
        service.run()
        if service.busy:
            os._exit(0)  # what a thread uses can't be closed, nor can the thread be stopped
