"""Turns of a conversation: what of it gives way, and what of a new rendering is read already.

Pure functions on arrays and on text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from scope_cpp.engine.cache.marks import Mark
from scope_cpp.engine.cache.stats import CacheStats
from scope_cpp.engine.settings import Settings
from scope_cpp.errors import ScopeError
from scope_cpp.policies.base import BoolArray, FloatArray, IntArray, PrefillPolicy, View
from scope_cpp.policies.select import finite

Message = Mapping[str, Any]


@dataclass(frozen=True)
class Region:
    """Tokens ``start`` to ``stop - 1`` of a conversation.

    Attributes
    ----------
    kind
        ``"system"``: all before the first user message. ``"prompt"``: a user message and what the
        template writes around it. ``"answer"``.
    turn
        Which user message, from 0.
    """

    kind: str
    turn: int
    start: int
    stop: int


@dataclass
class Turn:
    """What was read at once, and the answer that was written after it.

    Attributes
    ----------
    index
        The user message that it ends with.
    settings
        With which it was read and written.
    start
        Position of the first token.
    tokens, n_unread
        What was read; the first `n_unread` are the end of the answer before, not of `text`.
    text
        What was read, as the template rendered it.
    regions
        Of what was read.
    n_last
        Tokens of the last batch.
    answer
        Tokens that were sampled, without the one that ends a generation.
    n_decoded
        How many of them lie in the cache.
    trimmed
        Tokens of a stop string, decoded after the answer and taken back.
    shown
        How many tokens the answer had when its text was last looked at, and that text.
    """

    index: int
    settings: Settings
    start: int
    tokens: list[int]
    n_unread: int
    text: str
    regions: list[Region]
    n_last: int = 0
    answer: list[int] = field(default_factory=list)
    n_decoded: int = 0
    trimmed: list[int] = field(default_factory=list)
    before: Mark | None = None
    after: Mark | None = None
    shown: tuple[int, str] = (0, "")

    @property
    def stop(self) -> int:
        """Position after the last token that was read."""
        return self.start + len(self.tokens)

    @property
    def n_decoded_at_all(self) -> int:
        """Tokens to decode to go through it as it went."""
        return len(self.tokens) + self.n_decoded + len(self.trimmed)

    @property
    def tail(self) -> list[int]:
        """Tokens of the last batch."""
        return self.tokens[len(self.tokens) - self.n_last :]

    def all_regions(self) -> list[Region]:
        """Regions of what was read and of the answer."""
        written = Region("answer", self.index, self.stop, self.stop + self.n_decoded)
        return [*self.regions, written] if self.n_decoded else self.regions

    def shorten(self, n_tokens: int, n_chars: int) -> None:
        """Only the first tokens and characters of what was read are left."""
        self.tokens, self.text = self.tokens[:n_tokens], self.text[:n_chars]
        self.regions = [
            replace(r, stop=min(r.stop, self.stop)) for r in self.regions if r.start < self.stop
        ]
        self.after = None

    def forget_answer(self) -> None:
        """Only what was read is left."""
        self.answer, self.n_decoded, self.trimmed = [], 0, []
        self.shown = 0, ""


@dataclass
class Clock:
    """Numbers and times of one turn, counted while it is read and answered."""

    n_prompt: int = 0
    n_again: int = 0
    n_generated: int = 0
    prompt_seconds: float = 0.0
    generation_seconds: float = 0.0


@dataclass(frozen=True)
class Account:
    """What one answer took; the fields are those of `Stats` that belong to a turn.

    It is kept with the answer, so that going back to an earlier answer finds what that one took.
    """

    n_prompt: int = 0
    n_again: int = 0
    n_generated: int = 0
    prompt_seconds: float = 0.0
    generation_seconds: float = 0.0
    evicted: int = 0
    selections: int = 0
    attention_loss: float = 0.0
    score_seconds: float = 0.0
    select_seconds: float = 0.0
    move_seconds: float = 0.0

    @classmethod
    def of(cls, clock: Clock, counts: CacheStats) -> Account:
        """Return the account of a turn that the cache has counted from its beginning on."""
        counted = {name: n for name, n in vars(counts).items() if name in cls.__annotations__}
        return cls(**vars(clock), **counted)


@dataclass(frozen=True)
class Progress:
    """How far a conversation is, besides its cells: what a file of it says too.

    Attributes
    ----------
    messages
        As of `Conversation.messages`.
    attempts
        How often the answer to each user message was written anew.
    turns
        What was read and written.
    accounts
        What the answer to each user message took; ``None`` where that is not known.
    """

    messages: list[dict[str, str]]
    attempts: list[int]
    turns: list[Turn]
    accounts: list[Account | None]


# cells


def n_rows(pos: IntArray, regions: Sequence[Region]) -> int:
    """Rows of these regions that every head has: the fewest of any head."""
    return int(_inside(pos, regions).sum(axis=-1).min())


def give_way(
    pos: IntArray, scores: FloatArray, regions: Sequence[Region], n_free: int
) -> BoolArray:
    """Mark what stays when `n_free` rows of every head go: those of the first regions first.

    Within a region the lowest score goes first, of equal ones the earliest. Rows outside of the
    regions stay.

    Parameters
    ----------
    pos, scores
        (L, H, n), as in `View`.
    regions
        In the order in which they give way; at least `n_free` rows of each head are in them.
    n_free
        Rows that go.

    Returns
    -------
    array
        bool (L, H, n).
    """
    rank = np.full(pos.shape, len(regions), np.int32)
    for i, region in enumerate(regions):
        rank[(pos >= region.start) & (pos < region.stop)] = i
    order = np.lexsort((pos, finite(scores), rank), axis=-1)
    keep = np.ones(pos.shape, np.bool_)
    np.put_along_axis(keep, order[..., :n_free], False, axis=-1)
    return keep


def thin_prompts(
    prefill: PrefillPolicy,
    pos: IntArray,
    scores: FloatArray,
    regions: Sequence[Region],
    n_free: int,
) -> BoolArray:
    """Mark what stays when a prefill policy gives up `n_free` rows of these regions.

    The policy sees the regions as if they were one prompt. Rows outside of them stay.

    Raises
    ------
    ScopeError
        If the policy keeps more than it was allowed.
    """
    inside = _inside(pos, regions)
    n = int(inside.sum(axis=-1).min())
    last = int(pos[inside].max()) + 1
    # the earliest n rows of each head, in the order of positions
    order = np.argsort(np.where(inside, pos, np.iinfo(np.int32).max), axis=-1, kind="stable")
    rows = order[..., :n]
    view = View(
        pos=np.take_along_axis(pos, rows, axis=-1),
        scores=np.take_along_axis(scores, rows, axis=-1),
        n_prompt=last,
        n_past=last,
        n_predict=None,
        limit=n - n_free,
    )
    chosen = prefill.select(view, final=False)
    if not (chosen.sum(axis=-1) == n - n_free).all():
        raise ScopeError(f"prefill {prefill.name} did not keep {n - n_free} cells in every head")
    keep = np.ones(pos.shape, np.bool_)
    np.put_along_axis(keep, rows, chosen, axis=-1)
    return keep


def _inside(pos: IntArray, regions: Sequence[Region]) -> BoolArray:
    inside = np.zeros(pos.shape, np.bool_)
    for region in regions:
        inside |= (pos >= region.start) & (pos < region.stop)
    return inside


def count_cells(pos: IntArray, regions: Sequence[Region]) -> list[int]:
    """Cells of each region, the mean over heads; together as many as there are rows in them."""
    counts = [((pos >= r.start) & (pos < r.stop)).sum(axis=-1).mean() for r in regions]
    ends = np.rint(np.cumsum(counts)).astype(int)
    return [int(n) for n in np.diff(ends, prepend=0)]


# what else can be said


def ways_out(turns: Sequence[Turn], over: int) -> list[str]:
    """What the user can do about the last of these turns, which is `over` tokens too long."""
    ways = []
    if over < len(turns[-1].tokens):
        ways.append("send a shorter message")
    if len(turns) > 1:
        ways += ["take the last message back (/undo)", "begin anew (/clear)"]
    return ways


def any_of(ways: Sequence[str]) -> str:
    """Return ``a, b or c``."""
    *first, last = ways
    return f"{', '.join(first)} or {last}" if first else last


# text


def match_answer(rendered: str, at: int, answer: str) -> int | None:
    """Where an answer ends that a rendering has at `at`; None if it has something else there.

    Templates that strip an answer still have it.
    """
    if rendered.startswith(answer, at):
        return at + len(answer)
    stripped = answer.strip()
    while at < len(rendered) and rendered[at].isspace():
        at += 1
    return at + len(stripped) if rendered.startswith(stripped, at) else None


def common_prefix(a: Sequence[Any], b: Sequence[Any]) -> int:
    """Length of what two sequences begin with alike."""
    n = min(len(a), len(b))
    return next((i for i in range(n) if a[i] != b[i]), n)


def find_answers(text: str, messages: Sequence[Message]) -> list[tuple[int, int]]:
    """Where a rendering of `messages` has each answer: start and end, equal if it was left out.

    Of an answer that the template shortened, what is left of its end is found.
    """
    spans = []
    at = 0
    for message in messages:
        content = str(message["content"]).strip()
        if message["role"] == "assistant":
            content = _longest_end(text, at, content)
        start = text.find(content, at)
        if start >= 0:
            at = start + len(content)
        if message["role"] == "assistant":
            spans.append((at - len(content) if start >= 0 else at, at))
    return spans


def _longest_end(text: str, at: int, content: str) -> str:
    """Longest end of `content` that `text` has at or after `at`."""
    low, high = 0, len(content)
    while low < high:
        half = (low + high + 1) // 2
        if text.find(content[len(content) - half :], at) >= 0:
            low = half
        else:
            high = half - 1
    return content[len(content) - low :].strip()
