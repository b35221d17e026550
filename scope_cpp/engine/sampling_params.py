"""The sampling values, their defaults and ranges; plain Python, so that help can show them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from scope_cpp.engine.arguments import check_fields
from scope_cpp.engine.ranges import INT32_MAX, Range
from scope_cpp.errors import UsageError

RANDOM_SEED = 0xFFFFFFFF

_MOST_REPEAT_LAST_N = 2**20  # llama.cpp allocates this many tokens at once


# The one place that says which sampling values are taken: by flags, files, Python, HTTP and rows.
# Penalties and biases end where sums of them would not be finite any more in single precision.
RANGES = {
    "temp": Range(float, 0, 100, openai=(0, 2)),
    "top_k": Range(int, -1, INT32_MAX),
    "top_p": Range(float, 0, 1),
    "min_p": Range(float, 0, 1),
    "typical_p": Range(float, 0, 1),
    "repeat_penalty": Range(float, 0.01, 100),
    "repeat_last_n": Range(int, -1, _MOST_REPEAT_LAST_N),
    "presence_penalty": Range(float, -100, 100, openai=(-2, 2)),
    "frequency_penalty": Range(float, -100, 100, openai=(-2, 2)),
    "seed": Range(int, -1, RANDOM_SEED),
}
TOKEN = Range(int, 0, INT32_MAX)
BIAS = Range(float, -(10**9), 10**9, openai=(-100, 100))


@dataclass(frozen=True)
class SamplingParams:
    """How the next token is chosen; names and defaults are llama.cpp's.

    Attributes
    ----------
    temp : float
        0 takes the largest logit, after bias and penalties.
    top_k : int
        0 and -1 mean all tokens.
    top_p, min_p, typical_p : float
        Within 0 to 1.
    repeat_penalty : float
        1 is none.
    repeat_last_n : int
        Tokens, of prompt and output, that the three penalties look at; -1 means all.
    seed : int
        32 bits; -1 or 0xFFFFFFFF draws one, which `Sampler.seed` reports.
    grammar, json_schema : str, optional
        GBNF, or a JSON schema as JSON text; not both.
    logit_bias : mapping of int to float
        Added to the logits of these tokens before anything else; -inf forbids a token.
    ignore_eos : bool
        Forbid the tokens that end a generation.

    Raises
    ------
    UsageError
        For a value outside its range; see `RANGES`.
    """

    temp: float = 0.8
    top_k: int = 40
    top_p: float = 0.95
    min_p: float = 0.05
    typical_p: float = 1.0
    repeat_penalty: float = 1.0
    repeat_last_n: int = 64
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    seed: int = -1
    grammar: str | None = None
    json_schema: str | None = None
    logit_bias: Mapping[int, float] = field(default_factory=dict, hash=False)
    ignore_eos: bool = False

    def __post_init__(self) -> None:
        for name, allowed in RANGES.items():
            object.__setattr__(self, name, allowed.check(name, getattr(self, name)))
        check_fields(self, but=RANGES)
        for token, bias in self.logit_bias.items():
            TOKEN.check("a token of logit_bias", token)
            if bias != -math.inf:
                BIAS.check(f"logit_bias of token {token}", bias)
        if self.grammar is not None and self.json_schema is not None:
            raise UsageError("a grammar and a JSON schema were given: choose one")

    @property
    def penalised(self) -> int:
        """Tokens that the penalties look at; 0 if there are no penalties."""
        if self.repeat_penalty == 1 and self.presence_penalty == self.frequency_penalty == 0:
            return 0
        return _MOST_REPEAT_LAST_N if self.repeat_last_n == -1 else self.repeat_last_n
