"""``/v1/completions``: texts in, texts out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from scope_cpp.serve import schema
from scope_cpp.serve.check import check
from scope_cpp.serve.choice import Alternatives, Piece, logprob
from scope_cpp.serve.form import Asked, Form, Object, asked
from scope_cpp.serve.rows import make_rows
from scope_cpp.serve.serving import Serving

PATH = "/v1/completions"


def prepare(body: Object, serving: Serving) -> Asked:
    """Check a request and turn it into rows; takes a while, and may run in any thread.

    Raises
    ------
    ApiError
    """
    check(body, schema.completions(serving.n_predict))
    serving.require_model(body)
    rows = make_rows(
        serving,
        body,
        _prompts(serving, body),
        param="prompt",
        longest=min(schema.DEFAULT_COMPLETION, serving.n_predict),
        logprobs=body.get("logprobs"),
    )
    return asked(body, rows, [body["prompt"]], "prompt")


def _prompts(serving: Serving, body: Object) -> list[tuple[int, ...]]:
    """Tokens of each prompt."""
    prompt: Any = body["prompt"]
    if isinstance(prompt, str) or not isinstance(prompt[0], (str, list)):
        prompt = [prompt]
    parse_special = body.get("parse_special") is not False
    return [
        serving.tokenize(body, one, "prompt", parse_special) if isinstance(one, str) else tuple(one)
        for one in prompt
    ]


@dataclass
class TextForm(Form):
    """The form of answers; `logprobs`: whether they tell those."""

    logprobs: bool = False
    prefix: ClassVar[str] = "cmpl"
    whole_kind: ClassVar[str] = "text_completion"
    chunk_kind: ClassVar[str] = "text_completion"
    _told: dict[int, int] = field(default_factory=dict)  # characters of tokens told so far

    def part(self, index: int, piece: Piece) -> Object:
        """Return new text."""
        return self.choice(index, [piece])

    def choice(self, index: int, pieces: Sequence[Piece]) -> Object:
        """Return a text."""
        tokens = [alternatives for piece in pieces for alternatives in piece.tokens]
        return {
            "index": index,
            "text": "".join(piece.text for piece in pieces),
            "logprobs": self._logprobs(index, tokens) if self.logprobs else None,
            "finish_reason": pieces[-1].finish_reason,
        }

    def _logprobs(self, index: int, tokens: Sequence[Alternatives]) -> Object:
        texts = [own.text.decode("utf-8", errors="replace") for own, *_ in tokens]
        offsets, at = [], self._told.get(index, 0)
        for text in texts:
            offsets.append(at)
            at += len(text)
        self._told[index] = at
        return {
            "tokens": texts,
            "token_logprobs": [logprob(own) for own, *_ in tokens],
            "top_logprobs": [
                {other.text.decode("utf-8", errors="replace"): logprob(other) for other in likely}
                for _, *likely in tokens
            ],
            "text_offset": offsets,
        }
