"""The sampling values, their defaults and ranges; plain Python, so that help can show them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from scope_cpp.errors import UsageError

RANDOM_SEED = 0xFFFFFFFF

_INT32_MAX = 2**31 - 1
_FLOAT32_MAX = 3e38
_MAX_REPEAT_LAST_N = 2**20  # llama.cpp allocates this many tokens at once


@dataclass(frozen=True)
class SamplingParams:
    """How the next token is chosen; names and defaults are llama.cpp's.

    Attributes
    ----------
    temp : float
        0 or less takes the largest logit, after bias and penalties.
    top_k : int
        0 or less means all tokens.
    top_p, min_p, typical_p : float
        Within 0 to 1.
    repeat_penalty : float
        More than 0; 1 is none.
    repeat_last_n : int
        Tokens, of prompt and output, that the three penalties look at.
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
        For a value outside its range.
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
        for name in ("temp", "presence_penalty", "frequency_penalty"):
            _check_number(name, getattr(self, name), -_FLOAT32_MAX, _FLOAT32_MAX)
        for name in ("top_p", "min_p", "typical_p"):
            _check_number(name, getattr(self, name), 0, 1)
        # llama.cpp divides by it in single precision
        _check_number("repeat_penalty", self.repeat_penalty, 1 / _FLOAT32_MAX, _FLOAT32_MAX)
        _check_whole("top_k", self.top_k, -_INT32_MAX, _INT32_MAX)
        _check_whole("repeat_last_n", self.repeat_last_n, 0, _MAX_REPEAT_LAST_N)
        _check_whole("seed", self.seed, -1, RANDOM_SEED)
        for token, bias in self.logit_bias.items():
            _check_whole("a token of logit_bias", token, 0, _INT32_MAX)
            if bias != -math.inf:
                _check_number(f"logit_bias of token {token}", bias, -_FLOAT32_MAX, _FLOAT32_MAX)
        if self.grammar is not None and self.json_schema is not None:
            raise UsageError("a grammar and a JSON schema were given: choose one")

    @property
    def has_penalties(self) -> bool:
        """Whether tokens are penalised for having occurred."""
        return self.repeat_last_n > 0 and (
            self.repeat_penalty != 1 or self.presence_penalty != 0 or self.frequency_penalty != 0
        )


def _check_number(name: str, value: Any, low: float, high: float) -> None:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not low <= value <= high:  # false for NaN
        raise UsageError(f"{name} is {value!r}: give a number within {low:g} to {high:g}")


def _check_whole(name: str, value: Any, low: int, high: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise UsageError(f"{name} is {value!r}: give a whole number within {low} to {high}")
