"""Why an output shows nothing, or never ends, in words."""

from __future__ import annotations

from scope_cpp.engine.model import Model
from scope_cpp.engine.sampling_params import SamplingParams

INTERRUPTED = "it was interrupted"
ENDLESS = (
    "the output may never end: tokens that end one are ignored, and it has no length; Ctrl-C stops "
    "it, -n or -c limits it"
)


def never_ends(sampling: SamplingParams, n_predict: int | None) -> bool:
    """Whether no token, no length and no grammar can end an output."""
    constrained = sampling.grammar is not None or sampling.json_schema is not None
    return sampling.ignore_eos and n_predict is None and not constrained


def why_no_text(model: Model, token: int, n: int, stop: str | None, blank: bool) -> str:
    """Return why an output has no text that can be seen, as a clause.

    Parameters
    ----------
    model
    token, n
        The last token, and how many there are.
    stop
        The stop string that ended the output, if one did.
    blank
        Whether there is white space.
    """
    name = repr(model.token_to_piece(token, special=True).decode("utf-8", errors="replace"))
    before = "only white space" if blank else f"{n - 1} tokens without text"
    if stop is not None:
        return f"the stop string {stop!r} came {'after only white space' if blank else 'at once'}"
    if model.is_eog(token):
        if n == 1:
            return f"the first token, {name}, ended the output"
        return f"{before} came before {name}, which ended the output"
    what = "white space" if blank else "tokens without text"
    return f"all {n} tokens of the longest output are {what}, the last of them {name}"
