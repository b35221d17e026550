"""Perplexity of a long continuation under eviction: a text is read as if it were generated.

Documents of the file (between ``<|endoftext|>``) are tokenized one by one, each with the model's
BOS, put end to end and cut into windows of equal length; those that a small vocabulary has no
tokens for are skipped. The first tokens of a window are the
prompt, every further one is decoded through the bounded cache, and its logarithmic probability
under the logits before it counts. Scores are mean negative log-likelihoods in nats per token
(perplexity is their exponential), for each quarter of a window and in all.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

from scope_cpp.errors import ScopeError, UsageError
from scope_cpp.eval.task import Item, Option, Output, Score, Source, Task
from scope_cpp.eval.tasks.data import data_path, read_text
from scope_cpp.eval.tasks.options import read_options

_SEPARATOR = "<|endoftext|>"
_QUARTERS = 4


class Perplexity(Task):
    """Lower is better; there are no questions, `Score.correct` has the quarters."""

    name: ClassVar[str] = "perplexity"
    summary: ClassVar[str] = "negative log-likelihood of a text, read token by token"
    lower_is_better: ClassVar[bool] = True
    per_sample: ClassVar[bool] = True
    needs_tokenizer: ClassVar[bool] = True
    where: ClassVar[str] = (
        "Any UTF-8 text will do, documents separated by <|endoftext|>, such as the validation set"
        " of TinyStories (https://huggingface.co/datasets/roneneldan/TinyStories,"
        " CDLA-Sharing-1.0)"
    )
    options: ClassVar[dict[str, Option]] = {
        "windows": Option(8, "windows of the text", low=1),
        "tokens": Option(1024, "tokens of a window", low=8),
        "prompt": Option(32, "tokens of a window that are its prompt", low=1),
    }

    def items(self, source: Source) -> list[Item]:
        """Cut the text into windows."""
        values = read_options(self, source)
        size, n_prompt = values["tokens"], values["prompt"]
        if n_prompt > size - _QUARTERS:
            raise UsageError(
                f"a window of {size} tokens with a prompt of {n_prompt}: give --task-option"
                f" prompt={size - _QUARTERS} or less"
            )
        path = data_path(self, source)
        if source.tokenize is None:
            raise UsageError(f"the task {self.name} needs a model's tokenizer: name a model")
        tokens = _tokens(path, source, source.tokenize, values["windows"] * size)
        n = min(len(tokens) // size, values["windows"])
        if not n:
            raise ScopeError(
                f"{path} has {len(tokens)} tokens, a window {size}: use a longer text, or"
                f" --task-option tokens={max(8, len(tokens))} or less"
            )
        if n < values["windows"]:
            source.warn(f"{path} is enough for {n} windows of {size} tokens only")
        windows = [tuple(tokens[i * size : (i + 1) * size]) for i in range(n)]
        return [
            Item(
                id=f"window-{i}",
                prompt="",
                n_predict=0,
                gold=None,
                prompt_tokens=window[:n_prompt],
                forced_tokens=window[n_prompt:],
            )
            for i, window in enumerate(windows[: source.limit], start=1)
        ]

    def score(self, item: Item, output: Output, scorer: str) -> Score:
        """Return means over quarters, and over all.

        Raises
        ------
        ScopeError
            There are fewer values than quarters, or one that is no finite number.
        """
        nll = output.nll
        if len(nll) < _QUARTERS or not all(map(math.isfinite, nll)):
            raise ScopeError(f"{item.id}: no log-likelihoods, or infinite ones")
        ends = [round(len(nll) * q / _QUARTERS) for q in range(_QUARTERS + 1)]
        quarters = (nll[a:b] for a, b in zip(ends, ends[1:], strict=False))
        return Score(tuple(math.fsum(q) / len(q) for q in quarters), math.fsum(nll) / len(nll))


def _tokens(
    path: Path, source: Source, tokenize: Callable[[str], list[int]], wanted: int
) -> list[int]:
    """Return at least the `wanted` tokens of the documents of a file, or all that there are.

    Raises
    ------
    UsageError
        No document can be tokenized.
    """
    tokens: list[int] = []
    refused: list[UsageError] = []
    for document in filter(None, map(str.strip, read_text(path).split(_SEPARATOR))):
        if len(tokens) >= wanted:
            break
        try:
            tokens += tokenize(document)
        except UsageError as reason:
            refused.append(reason)
    if refused and not tokens:
        raise refused[0]
    if refused:
        source.warn(f"{path}: {len(refused)} documents skipped, the first as {refused[0]}")
    return tokens
