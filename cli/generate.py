"""``scope generate``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from .app import shows_first
from .flags import (
    BudgetFlags,
    ComputeFlags,
    LengthFlags,
    ModelFlags,
    OutputFlags,
    PlacementFlags,
    PolicyFlags,
    PromptFlags,
    SamplingFlags,
)
from .interrupt import INTERRUPTED

if TYPE_CHECKING:
    from scope_cpp.engine.generate import Generation

    from .report import Report


@shows_first("-hf", "-p", "-f", "--raw", "-sys", "-n", "--budget", "--policy", "--temp", "-ngl")
def generate(
    ctx: typer.Context,
    model: ModelFlags,
    prompt: PromptFlags,
    length: LengthFlags,
    budget: BudgetFlags,
    policy: PolicyFlags,
    sampling: SamplingFlags,
    placement: PlacementFlags,
    compute: ComputeFlags,
    output: OutputFlags,
) -> None:
    """Answer a prompt, or continue a text, in a KV cache of a fixed size; it streams to stdout.

    scope generate model.gguf -p "Write a long story." -n 2000 --budget 512
    """
    from scope_cpp.engine.generate import Generation

    from . import convert, process, shipped
    from .interrupt import exit_at_once
    from .prompt import format_prompt, read_prompt
    from .report import Report

    settings = convert.settings(budget, policy, compute)
    values = convert.sampling_values(sampling)
    n_predict = convert.longest_output(length)
    path = convert.model_path(model, ctx, shipped.path)
    report = Report(path, as_json=output.json, verbose=output.verbose)
    process.prepare(verbose=output.verbose)
    text = read_prompt(prompt)
    with exit_at_once():
        loaded = convert.load_model(path, placement)
    with loaded:
        if not model.named:
            shipped.introduce()
        text, stops, parse_special = format_prompt(loaded, prompt, text, report.warn)
        with exit_at_once():
            generation = Generation(
                loaded,
                text,
                n_predict=n_predict,
                settings=settings,
                sampling=convert.sampling_params(loaded, values, report.warn),
                stop=[*stops, *convert.stop_strings(length.stop, not prompt.no_escape)],
                parse_special=parse_special,
                warn=report.warn,
            )
        with generation:
            reason, no_text = _write(generation, report)
            if no_text is not None:
                report.warn_of_silence(no_text, raw=prompt.raw and bool(loaded.chat_template))
            report.finish(generation, reason)
    if reason == "interrupted":
        raise typer.Exit(INTERRUPTED)


def _write(generation: Generation, report: Report) -> tuple[str, str | None]:
    """Write the text as it comes; return why it ended, and why there is none."""
    from scope_cpp.engine.silence import INTERRUPTED as interrupted
    from scope_cpp.errors import ScopeError

    from .reading import reading

    reason = no_text = None
    try:
        with reading(generation):
            for response in generation:
                report.write(response.text)
                reason, no_text = response.finish_reason, response.no_text
    except KeyboardInterrupt:
        reason = "interrupted"
        no_text = None if report.shows_text else interrupted
    except ScopeError:
        report.give_up()
        raise
    return str(reason), no_text
