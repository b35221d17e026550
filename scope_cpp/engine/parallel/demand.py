"""What a request comes to: its tokens, its sizes, and what it may share."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace

from scope_cpp.engine.budget import cells, parse_budget
from scope_cpp.engine.cache.foresight import n_asked
from scope_cpp.engine.cache.scorer import PROMPT_QUERIES, ring_size
from scope_cpp.engine.held_turns import evicts
from scope_cpp.engine.kv_types import bytes_per_cell
from scope_cpp.engine.length import longest_output
from scope_cpp.engine.model import Model
from scope_cpp.engine.parallel.request import Request
from scope_cpp.engine.prompts import prompt_tokens
from scope_cpp.engine.rendering import Rendering
from scope_cpp.engine.room import check_opening
from scope_cpp.engine.settings import CHAT_CELLS, Settings
from scope_cpp.engine.sizes import CHAT_QUERIES, Sizes, conversation_policies, resolve
from scope_cpp.errors import TooLong, UsageError
from scope_cpp.policies import DecodePolicy, PrefillPolicy

# Settings that belong to the context, which all rows share
DIALS = (
    "type_k", "type_v", "n_batch", "n_ubatch", "n_threads", "n_threads_batch", "flash_attn",
    "offload_kqv",
)  # fmt: skip

# A conversation without a budget has a share of the cells, but so many if they are there
LEAST_TALK_CELLS = 4096


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


@dataclass(frozen=True)
class TalkDemand(Demand):
    """What a turn of a conversation needs; its `tokens` are those of the first piece.

    Attributes
    ----------
    settings, chat
        Of the conversation, and what it is to have.
    n_kept, n_new
        Cells of it that are there already, tokens that are to be read.
    """

    settings: Settings
    chat: Rendering
    n_kept: int = 0
    n_new: int = 0

    @property
    def n_cells(self) -> int:
        """Most cells that the conversation may use in this turn."""
        if self.n_predict is None:
            return self.sizes.capacity
        return min(self.sizes.capacity, self.n_kept + self.n_new + self.n_predict)

    @property
    def ring(self) -> int:
        """Queries that must be recorded."""
        return max(CHAT_QUERIES, super().ring)

    @property
    def reads_whole(self) -> bool:
        """Whether the first piece is read whole, and no policy reads its attention."""
        return self.sizes.prefill.name == "full" and not self.sizes.decode.reads_prompt


def usual_ring(settings: Settings, n_cells: int) -> int:
    """Queries to record from the start: for these settings, and for the default ones."""
    rings = (_ring(*own.policies(), n_cells) for own in (settings, Settings()))
    return max(PROMPT_QUERIES, *rings)


def _ring(decode: DecodePolicy, prefill: PrefillPolicy, capacity: int) -> int:
    return ring_size(decode, prefill, prefill.needs_scores or decode.reads_prompt, capacity)


def assess(request: Request, model: Model, room: Room, talks: bool = False) -> Demand:
    """Work out what a request comes to.

    A budget of ``auto`` is an equal share of the engine's cells. Chats are conversations if the
    engine `talks`, and their policies bound answers in all layers alike.

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
    if talks and request.chat is not None and can_talk(settings):
        return _assess_talk(request, request.chat, settings, model, room)
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


def can_talk(settings: Settings) -> bool:
    """Whether a conversation may have these settings; see `conversation_policies`."""
    decode, prefill = settings.policies()
    sized = prefill.name != "full" and prefill.sized
    return evicts(decode, prefill) and not (decode.uneven or prefill.uneven or sized)


def _assess_talk(
    request: Request, chat: Rendering, settings: Settings, model: Model, room: Room
) -> TalkDemand:
    """As `assess`, for a turn of a conversation: not all of it need fit."""
    budget = parse_budget(settings.budget)
    n_cells, share = room.n_cells, max(1, room.n_cells // room.n_parallel)
    if budget.kind == "auto":
        n_cells = share
    elif settings.budget is None:
        n_cells = min(n_cells, CHAT_CELLS, max(share, LEAST_TALK_CELLS))
    else:
        per_cell = bytes_per_cell(model, settings.type_k, settings.type_v)
        n_cells = cells(
            budget,
            n_prompt=0,
            n_predict=n_cells,
            taken=lambda n: n * per_cell,
            free_memory=sys.maxsize,
        )
    decode, prefill = conversation_policies(settings, n_cells, request.n_predict)
    has_system = any(message["role"] == "system" for message in chat.messages)
    check_opening(chat.openings, has_system, n_cells, decode, request.n_predict)
    sizes = Sizes(n_cells, True, decode, prefill, decode.warnings() + prefill.warnings())
    whole_cells = settings.granularity == "cell"
    return TalkDemand((), request.n_predict, sizes, whole_cells, settings, chat)
