"""What a policy sees and what it answers: `View`, `Step` and the two kinds of policy.

Arrays have the shape (L, H, n): layers, KV heads, and the cached cells ("rows") of one
sequence in any order. When whole cells are evicted, the caller pools the scores and passes
L = H = 1. A policy is an immutable value: it holds options, never the state of a request.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, TypeAlias

import numpy as np
from numpy.typing import NDArray
from typing_extensions import Self

FloatArray: TypeAlias = NDArray[np.float32]
IntArray: TypeAlias = NDArray[np.int32]
BoolArray: TypeAlias = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class View:
    """Everything that a selection may look at.

    Parameters
    ----------
    pos
        int32 (L, H, n): true position of the token whose K and V the row holds. Positions
        differ by head after evictions, and are distinct within a head.
    scores
        float32 (L, H, n): what the policy's `fold` made of the attention so far.
    n_prompt
        Prompt length M in tokens; rows with ``pos < n_prompt`` are the prompt's pool.
    n_past
        Tokens seen so far; the newest row of every head has position ``n_past - 1``.
    n_predict
        Longest output T in tokens, None if unknown.
    limit
        Hard: at most this many rows may be kept by each head (at least 1).
    """

    pos: IntArray
    scores: FloatArray
    n_prompt: int
    n_past: int
    n_predict: int | None
    limit: int

    def __post_init__(self) -> None:
        """Refuse arrays that do not belong together, and a limit without the newest row."""
        if self.pos.ndim != 3 or self.pos.shape != self.scores.shape:
            raise ValueError(f"pos {self.pos.shape} and scores {self.scores.shape} must be (L,H,n)")
        if self.limit < 1:
            raise ValueError(f"limit {self.limit}: the newest row alone needs 1")

    @property
    def n_rows(self) -> int:
        """Rows of each head."""
        return int(self.pos.shape[-1])

    @property
    def n_generated(self) -> int:
        """Tokens t generated so far."""
        return self.n_past - self.n_prompt

    @property
    def prompt(self) -> BoolArray:
        """Rows of the prompt's pool, (L, H, n)."""
        return self.pos < self.n_prompt

    def newest(self, n_tokens: int) -> BoolArray:
        """Rows of the last `n_tokens` tokens, (L, H, n)."""
        return self.pos >= self.n_past - n_tokens


@dataclass(frozen=True)
class Step:
    """What the decision *when* to select may look at, before the next token is decoded.

    Parameters
    ----------
    n_prompt, n_past, n_predict
        As in `View`.
    n_prompt_cells
        Cells that the prompt's pool holds now.
    n_cells
        Cells of the whole sequence now.
    capacity
        Cells that the sequence may hold.
    since
        Tokens decoded since the last selection.
    """

    n_prompt: int
    n_past: int
    n_predict: int | None
    n_prompt_cells: int
    n_cells: int
    capacity: int
    since: int

    @property
    def n_generated(self) -> int:
        """Tokens t generated so far."""
        return self.n_past - self.n_prompt

    @property
    def n_output_cells(self) -> int:
        """Cells of the generated tokens' pool now."""
        return self.n_cells - self.n_prompt_cells


def option(
    default: Any,
    text: str,
    *,
    low: float = 0,
    high: float = float("inf"),
    choices: tuple[str, ...] = (),
) -> Any:
    """Declare an option of a policy: a dataclass field with a help text and its valid values.

    Parameters
    ----------
    default
        Its default; None means "derived by `resolve`".
    text
        One line of help.
    low, high
        Smallest and largest valid number.
    choices
        Valid words, for an option that is a word.
    """
    valid = {"help": text, "low": low, "high": high, "choices": choices}
    return field(default=default, metadata=valid)


@dataclass(frozen=True)
class Policy(ABC):
    """What prefill and decode policies share: options that are checked, and score folding."""

    name: ClassVar[str]
    needs_scores: ClassVar[bool] = False

    def __post_init__(self) -> None:
        """Check every option against its declaration (`option`)."""
        for item in fields(self):
            value = getattr(self, item.name)
            if value is not None and item.metadata:
                _check(item.name, value, item.metadata)

    @property
    def sized(self) -> bool:
        """Whether the options alone say how many cells are held, whatever the budget."""
        return all(getattr(self, item.name) is not None for item in fields(self))

    def n_queries(self, since: int) -> int:
        """How many of the most recent queries must have been scored for a selection.

        More than the tokens that exist means all of them. `since` counts the tokens since the
        last fold.
        """
        return 0

    def fold(self, acc: FloatArray, observed: FloatArray, n: int) -> FloatArray:
        """Merge newly observed attention into the scores; the inputs are not changed.

        Parameters
        ----------
        acc
            float32 (L, H, n_rows): previous scores, 0 for new rows.
        observed
            float32 (L, H, n_rows): softmax weights summed over the `n` queries and the group of
            query heads that shares the KV head.
        n
            Number of queries in `observed`.
        """
        return acc

    def warnings(self) -> tuple[str, ...]:
        """Say what the user should know about these options, one line each."""
        return ()


@dataclass(frozen=True)
class DecodePolicy(Policy):
    """Decides when to select, and what each layer and KV head keeps, while tokens are written.

    A policy that ranks the prompt's cells too sets `reads_prompt`: the attention of the prompt's
    own queries is then folded into the scores before decoding starts. One whose `select` may
    give up rows from before the output sets `ranks_prompt`: in a conversation it works on all of
    the budget, the others on the pool of the answer that is being written.
    """

    reads_prompt: ClassVar[bool] = False
    ranks_prompt: ClassVar[bool] = False

    def resolve(self, budget: int | None, n_prompt_cells: int, n_predict: int | None) -> Self:
        """Fill the options that are None.

        Parameters
        ----------
        budget
            Cells for prompt and output together, a hard number; None lets the options or the
            default sizes decide.
        n_prompt_cells
            Cells of the prompt's pool when decoding starts.
        n_predict
            Longest output T in tokens, None if unknown.

        Raises
        ------
        ValueError
            The budget is below this policy's minimum; the message gives the minimum.
        """
        return self

    @abstractmethod
    def capacity(self, n_prompt_cells: int, n_predict: int | None) -> int:
        """Cells that the resolved policy ever holds at once, between selections included."""

    @abstractmethod
    def due(self, step: Step) -> bool:
        """Whether to select before the next token is decoded."""

    @abstractmethod
    def select(self, view: View) -> BoolArray:
        """Rows to keep, (L, H, n): at most ``view.limit`` per head, always with the newest."""


SCORES = ("accumulate", "window", "last")


@dataclass(frozen=True)
class ScoredDecodePolicy(DecodePolicy):
    """A decode policy that ranks cells by attention, with the options that say by which.

    ``accumulate`` sums the weights of all queries, as H2O does (arXiv 2306.14048); ``window``
    those of the last queries, as SnapKV does (arXiv 2404.14469); ``last`` takes the current
    query alone, Ψ(Att_t) of SCOPE (arXiv 2412.13649). The sums of ``accumulate`` are multiplied
    by ``decay**n`` before n queries are added: the queries of one fold weigh alike.

    ``grace`` lengthens the recent tokens that are safe from the ranking without making the pool
    larger: what they take, the heavy hitters give.
    """

    needs_scores: ClassVar[bool] = True

    score: str = option("accumulate", "which queries rank the cells", choices=SCORES)
    window: int = option(16, "queries that score=window sums over", low=1)
    decay: float = option(1.0, "what older accumulated weight is multiplied by per token", high=1)
    grace: int = option(0, "tokens for which a cell stays safe after it left the recent window")

    def check_window(self, recent: int) -> None:
        """Refuse a window that reaches back beyond the recent tokens.

        Rows are moved when their token leaves the recent window; a query older than that would
        be weighed against rows that were not where they are now.

        Raises
        ------
        ValueError
            ``score=window`` with more queries than recent tokens.
        """
        if self.score == "window" and self.window > recent:
            raise ValueError(
                f"{self.name}: window={self.window} is more than the {recent} recent tokens"
            )

    def n_queries(self, since: int) -> int:
        """All queries since the last fold, the window, or the last query."""
        return {"accumulate": since, "window": self.window, "last": 1}[self.score]

    def fold(self, acc: FloatArray, observed: FloatArray, n: int) -> FloatArray:
        """Add to the decayed sums, or replace them; see `Policy.fold`."""
        if self.score != "accumulate":
            return observed
        kept = acc if self.decay == 1 else acc * np.float32(self.decay**n)
        summed: FloatArray = kept + observed
        return summed


@dataclass(frozen=True)
class PrefillPolicy(Policy):
    """Chooses the prompt's pool: once at the prompt's end, and before it where room runs out."""

    def resolve(self, budget: int | None, n_prompt: int) -> Self:
        """Fill the options that are None.

        Parameters
        ----------
        budget
            Cells for prompt and output together; None lets the options or defaults decide.
        n_prompt
            Prompt length in tokens.

        Raises
        ------
        ValueError
            The budget is below this policy's minimum; the message gives the minimum.
        """
        return self

    @abstractmethod
    def cells(self, n_prompt: int) -> int:
        """Cells of the prompt's pool after the final selection of the resolved policy."""

    @abstractmethod
    def select(self, view: View, final: bool) -> BoolArray:
        """Rows to keep, (L, H, n), at most ``view.limit`` per head, always with the newest.

        While the prompt is read in chunks (not `final`) as many rows stay as the limit allows;
        at its end `cells(n_prompt)`.
        """


def _check(name: str, value: Any, valid: Any) -> None:
    """Refuse a value outside an option's declaration."""
    if valid["choices"]:
        if value not in valid["choices"]:
            raise ValueError(f"{name}={value}: valid are {', '.join(valid['choices'])}")
    elif not valid["low"] <= value <= valid["high"]:
        top = "" if valid["high"] == float("inf") else f" and at most {valid['high']}"
        raise ValueError(f"{name}={value}: must be at least {valid['low']}{top}")
