"""What a request comes to: its tokens, its sizes, and what it may share."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace

from scope_cpp.engine.budget import parse_budget
from scope_cpp.engine.cache.foresight import n_asked
from scope_cpp.engine.cache.scorer import PROMPT_QUERIES, ring_size
from scope_cpp.engine.length import longest_output
from scope_cpp.engine.model import Model
from scope_cpp.engine.parallel.request import Request
from scope_cpp.engine.prompts import prompt_tokens
from scope_cpp.engine.settings import Settings
from scope_cpp.engine.sizes import Sizes, resolve
from scope_cpp.errors import TooLong, UsageError
from scope_cpp.policies import DecodePolicy, PrefillPolicy

# Settings that belong to the context, which all rows share
DIALS = (
    "type_k", "type_v", "n_batch", "n_ubatch", "n_threads", "n_threads_batch", "flash_attn",
    "offload_kqv",
)  # fmt: skip


@dataclass(frozen=True)
class Room:
    """What an engine has: cells, rows at once, and its settings."""

    n_cells: int
    n_parallel: int
    settings: Settings


@dataclass(frozen=True)
class Demand:
    """What one row needs.

    Attributes
    ----------
    tokens, n_predict
        Its prompt; its longest output.
    sizes
        Capacity and policies.
    whole_cells
        Whether layers and heads choose together.
    """

    tokens: tuple[int, ...]
    n_predict: int | None
    sizes: Sizes
    whole_cells: bool

    @property
    def n_cells(self) -> int:
        """Most cells that the row may ever use."""
        return self.sizes.capacity

    @property
    def ring(self) -> int:
        """Queries that must be recorded."""
        sizes = self.sizes
        return _ring(sizes.decode, sizes.prefill, sizes.capacity) if sizes.bounded else 0

    @property
    def reads_whole(self) -> bool:
        """Whether the prompt's end finds all its cells, and no policy reads its attention."""
        decode, prefill = self.sizes.decode, self.sizes.prefill
        if not self.sizes.bounded:
            return True
        whole = prefill.keeps_all(len(self.tokens)) and not prefill.needs_scores
        return whole and not decode.reads_prompt

    @property
    def keeps_prompt(self) -> bool:
        """Whether no cell of the prompt is ever touched: other rows may have it too."""
        return self.reads_whole and not (self.sizes.bounded and self.sizes.decode.ranks_prompt)

    @property
    def n_reusable(self) -> int:
        """Tokens of the prompt that need not be read where another row has read them.

        The last token is read for its logits; the last ones that the policy asks ahead
        (`scores.foresight`) are read for their queries. So this changes no token of the output.
        """
        if not self.reads_whole:
            return 0
        n = len(self.tokens)
        own = n_asked(self.sizes.decode.ahead, n) if self.sizes.bounded else 0
        return n - max(1, own)


def usual_ring(settings: Settings, n_cells: int) -> int:
    """Queries to record from the start: for these settings, and for the default ones."""
    rings = (_ring(*own.policies(), n_cells) for own in (settings, Settings()))
    return max(PROMPT_QUERIES, *rings)


def _ring(decode: DecodePolicy, prefill: PrefillPolicy, capacity: int) -> int:
    return ring_size(decode, prefill, prefill.needs_scores or decode.reads_prompt, capacity)


def assess(request: Request, model: Model, room: Room) -> Demand:
    """Work out what a request comes to.

    A budget of ``auto`` is an equal share of the engine's cells.

    Raises
    ------
    UsageError
        If the request is wrong, or needs more cells than the engine has.
    """
    settings = request.settings or room.settings
    for name in DIALS:
        asked, given = getattr(settings, name), getattr(room.settings, name)
        if asked != given:
            raise UsageError(f"{name} is {asked}, but all rows share a context with {given}")
    if request.logprobs is not None and not 0 <= request.logprobs <= model.n_vocab:
        raise UsageError(f"logprobs is {request.logprobs}: give 0 to {model.n_vocab}")
    tokens = prompt_tokens(model, request.prompt, request.parse_special)
    n_predict = longest_output(settings, model, len(tokens), request.n_predict)
    if parse_budget(settings.budget).kind == "auto":
        settings = replace(settings, budget=max(1, room.n_cells // room.n_parallel))
    # the context has its memory already: cells are what is scarce
    sizes = resolve(settings, model, len(tokens), n_predict, free=sys.maxsize)
    if sizes.capacity > room.n_cells:
        raise TooLong(
            f"prompt ({len(tokens)} tokens) and output may need {sizes.capacity} cells, there are "
            f"{room.n_cells}: give a smaller --budget or -n, or more --cells"
        )
    return Demand(tuple(tokens), n_predict, sizes, settings.granularity == "cell")
