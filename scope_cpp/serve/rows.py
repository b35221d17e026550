"""From the fields of a request to the rows that the engine runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from scope_cpp.engine.parallel import Request
from scope_cpp.engine.parallel.demand import can_talk
from scope_cpp.engine.parallel.options import Options, parse_options
from scope_cpp.engine.rendering import Rendering
from scope_cpp.engine.sampling_params import RANDOM_SEED, SamplingParams
from scope_cpp.errors import UsageError, WrongValue
from scope_cpp.serve.errors import bad_request
from scope_cpp.serve.serving import Body, Serving
from scope_cpp.serve.wording import for_clients, refusal

# fields that are a row's own, see `parse_options`
_ROW = (
    "max_tokens",
    "max_completion_tokens",
    "stop",
    "seed",
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "typical_p",
    "presence_penalty",
    "frequency_penalty",
    "repeat_penalty",
    "repeat_last_n",
    "ignore_eos",
    "logit_bias",
    "response_format",
    "policy",
    "prefill",
    "granularity",
    "budget",
    "options",
)


def make_rows(
    serving: Serving,
    body: Body,
    prompts: Sequence[tuple[int, ...]],
    *,
    param: str,
    longest: int,
    chat: Rendering | None = None,
    logprobs: int | None = None,
) -> list[Request]:
    """Return ``n`` rows for each prompt, in order.

    Parameters
    ----------
    prompts
        In tokens.
    param
        The field that they came from, for messages.
    longest
        Most tokens of an answer where the request does not say.
    chat
        What the prompt is a rendering of, if it is.

    Raises
    ------
    ApiError
        400 for values that do not go together, or not with this model or cache.
    """
    n = body.get("n") or 1
    if len(prompts) * n > serving.most_rows:
        raise bad_request(
            f"{len(prompts) * n} answers are asked for: at most {serving.most_rows}, the rows that "
            "run and wait",
            "n",
        )
    try:
        options = parse_options({name: body[name] for name in _ROW if name in body})
        settings = options.over(serving.settings)
        sampling = _sampling(serving, options)
    except WrongValue as err:
        raise bad_request(for_clients(str(err)), err.name if err.name in body else None) from None
    except UsageError as err:
        raise refusal(err, param) from None
    for tokens in prompts:
        whole = settings.prefill == "full" and not (chat is not None and can_talk(settings))
        _check_prompt(serving, tokens, param, whole)
    row = Request(
        (),
        n_predict=options.n_predict or longest,
        settings=settings,
        stop=(*(chat.stops if chat is not None else ()), *(options.stop or ())),
        logprobs=logprobs,
        chat=chat,
        branches=n > 1,
    )
    return [
        replace(row, prompt=tokens, sampling=replace(sampling, seed=_seed(sampling.seed, i)))
        for tokens in prompts
        for i in range(n)
    ]


def _check_prompt(serving: Serving, tokens: Sequence[int], param: str, whole: bool) -> None:
    if not tokens:
        raise bad_request(f"{param} has no token: give a text", param)
    n_vocab = serving.model.n_vocab
    if not all(0 <= token < n_vocab for token in tokens):
        raise bad_request(f"{param} has tokens beyond the vocabulary of {n_vocab}", param)
    if whole and len(tokens) >= serving.n_cells:
        raise bad_request(
            f"the prompt has {len(tokens)} tokens, the cache {serving.n_cells} cells: "
            "give less, or a prefill policy that drops part of it (prefill snapkv)",
            param,
            "context_length_exceeded",
        )


def _sampling(serving: Serving, options: Options) -> SamplingParams:
    values = {**serving.sampling, **options.sampling}
    if options.sampling.get("json_schema") is not None:
        values["grammar"] = None
    n_vocab = serving.model.n_vocab
    for token in options.sampling.get("logit_bias", ()):
        if token >= n_vocab:
            raise WrongValue(
                "logit_bias",
                f"names token {token}: the vocabulary has 0 to {n_vocab - 1}",
            )
    return SamplingParams(**values)


def _seed(seed: int, i: int) -> int:
    """Seed of the `i`-th answer; -1 draws one each time."""
    return seed if seed in (-1, RANDOM_SEED) else (seed + i) % RANDOM_SEED
