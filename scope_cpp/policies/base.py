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

from scope_cpp.near import valid_are

FloatArray: TypeAlias = NDArray[np.float32]
IntArray: TypeAlias = NDArray[np.int32]
BoolArray: TypeAlias = NDArray[np.bool_]
# one number of each row, (L, H, n), or several, (numbers, L, H, n): `Policy.row`
RowArray: TypeAlias = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class View:
    """Everything that a selection may look at.

    Parameters
    ----------
    pos
        int32 (L, H, n): true position of the token whose K and V the row holds. Positions
        differ by head after evictions, and are distinct within a head.
    scores
        float32 (L, H, n), or (numbers, L, H, n) for a policy that keeps several (`Policy.row`):
        what its `fold` made of the attention so far.
    n_prompt
        Prompt length M in tokens; rows with ``pos < n_prompt`` are the prompt's pool.
    n_past
        Tokens seen so far; the newest row of every head has position ``n_past - 1``.
    n_predict
        Longest output T in tokens, None if unknown.
    limit
        Hard: at most this many rows may be kept by each head (at least 1).
    keys, values
        float32 (layers, KV heads, n, head size): K and V of the rows as they lie in the cache, K
        after RoPE; for a policy that sets `Policy.needs_keys` or `Policy.needs_values`, else
        None. They are of all layers and KV heads even where whole cells are evicted (L = H = 1).
        Quantized caches may hold both rotated, which changes no length and no angle.
    n_held
        Rows of each head that are not here and stay whatever is selected; `limit` is without them.
    layer, n_layers
        Which layer of how many the arrays are of, if a selection is made layer by layer: for a
        policy with `Policy.uneven`, and where layers hold different numbers of rows; else None.
    """

    pos: IntArray
    scores: RowArray
    n_prompt: int
    n_past: int
    n_predict: int | None
    limit: int
    keys: FloatArray | None = None
    values: FloatArray | None = None
    n_held: int = 0
    layer: int | None = None
    n_layers: int = 1

    def __post_init__(self) -> None:
        """Refuse arrays that do not belong together, and a limit without the newest row."""
        if self.pos.ndim != 3 or self.pos.shape != self.scores.shape[-3:]:
            raise ValueError(f"pos {self.pos.shape} and scores {self.scores.shape} must be (L,H,n)")
        for rows in (self.keys, self.values):
            if rows is not None and (rows.ndim != 4 or rows.shape[2] != self.n_rows):
                raise ValueError(f"keys and values {rows.shape} must be (L,H,{self.n_rows},D)")
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
    """What prefill and decode policies share: options that are checked, and score folding.

    `needs_scores`, `needs_keys` and `needs_values` say what of a `View` must be filled: attention
    costs a native call for every few tokens, rows of the cache a copy at every selection.

    A policy with `uneven` may keep other numbers of rows in other layers. It is asked about one
    layer after the other, and a budget holds for the layer that keeps most: all layers share
    llama.cpp's cells, so that the largest one decides the memory. All heads of a layer keep
    equally many rows. One with `compares_layers` must be asked about all layers at once.

    `row` names the numbers that are kept in mind of each row; without names it is one number.
    """

    name: ClassVar[str]
    needs_scores: ClassVar[bool] = False
    needs_keys: ClassVar[bool] = False
    needs_values: ClassVar[bool] = False
    uneven: ClassVar[bool] = False
    compares_layers: ClassVar[bool] = False
    row: ClassVar[tuple[str, ...]] = ()
    # without a type: fields, options, only of policies that declare them
    ahead = 0
    unlike = 0.0

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

    def fold(self, acc: RowArray, observed: FloatArray, n: int) -> RowArray:
        """Merge newly observed attention into the scores; the inputs are not changed.

        Parameters
        ----------
        acc
            float32 (L, H, n_rows), or (numbers, L, H, n_rows): previous scores, 0 for new rows.
        observed
            float32 (L, H, n_rows): softmax weights summed over the `n` queries and the group of
            query heads that shares the KV head.
        n
            Number of queries in `observed`.
        """
        return acc

    def expect(self, weights: FloatArray, likeness: FloatArray | None, n_cells: int) -> FloatArray:
        """What the scores of new rows begin with: float32 (L, H, n); no input is changed.

        Parameters
        ----------
        weights
            float32 (L, H, n): what the prompt's queries would give to them, see
            `scores.foresight`; 1 without any query.
        likeness
            float32 (L, KV heads, n): how alike each is to the row before it that it is most alike
            to; ``None`` unless the policy is `unlike`.
        n_cells
            Cells that the output may have.
        """
        return weights

    def foresee(
        self, acc: RowArray, weights: FloatArray, likeness: FloatArray | None, n_cells: int
    ) -> RowArray:
        """Return the scores of new rows with what is expected of them; no input is changed.

        Parameters
        ----------
        acc
            float32 (L, H, n), or (numbers, L, H, n): what `fold` made of their attention.
        weights, likeness, n_cells
            As for `expect`.
        """
        return np.asarray(acc + self.expect(weights, likeness, n_cells))

    def looks_ahead(self, acc: RowArray) -> BoolArray:
        """Tell in which layers new rows are worth weighing ahead of their use: bool (L,).

        In the others `foresee` is given weights of 0.

        Parameters
        ----------
        acc
            As for `foresee`.
        """
        return np.ones(acc.shape[-3], np.bool_)

    def weighs_later(self, acc: RowArray) -> bool:
        """Tell whether new rows may wait to be weighed ahead of their use, until a selection.

        Those that wait are given weights of 0 until then.

        Parameters
        ----------
        acc
            As for `foresee`.
        """
        return False

    def begin_output(self, acc: RowArray) -> RowArray:
        """Return the scores with which an output begins, of those that the prompt's end left.

        All rows are the prompt's then. The input is not changed.
        """
        return acc

    def chunk(self, capacity: int) -> int:
        """Most tokens of a prompt that are read before this policy makes room for the next ones.

        It follows from the capacity and the options alone, never from llama.cpp's batches: what
        stays of a prompt must not depend on these. At least 1, and less than a capacity above 1.
        """
        return max(1, capacity // 4)

    def warnings(self) -> tuple[str, ...]:
        """Say what the user should know about these options, one line each."""
        return ()


@dataclass(frozen=True)
class DecodePolicy(Policy):
    """Decides when to select, and what each layer and KV head keeps, while tokens are written.

    A policy that ranks the prompt's cells too sets `reads_prompt`: the attention of the prompt's
    own queries is then folded into the scores before decoding starts. One whose `select` may
    give up rows from before the output sets `ranks_prompt`: in a conversation it works on all of
    the budget, the others on the pool of the answer that is being written. If it `keeps_messages`,
    it is not asked there about the user's latest ones, while they take at most half of the budget.
    """

    reads_prompt: ClassVar[bool] = False
    ranks_prompt: ClassVar[bool] = False
    keeps_messages: ClassVar[bool] = False

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

    def rows(self, n_prompt: int) -> int:
        """Rows of the prompt that a layer keeps, in the mean of the layers."""
        return self.cells(n_prompt)

    def keeps_all(self, n_prompt: int) -> bool:
        """Whether the final selection of the resolved policy gives up no row of any layer."""
        return self.cells(n_prompt) >= n_prompt

    @abstractmethod
    def select(self, view: View, final: bool) -> BoolArray:
        """Rows to keep, (L, H, n), at most ``view.limit`` per head, always with the newest.

        While the prompt is read in chunks (not `final`) as many rows stay as the limit allows;
        at its end `cells(n_prompt)`. A conversation, whose prompts have no pool of their own,
        asks the policy before `resolve`, and never for the final selection.
        """


# positions and counts of cells are 32-bit numbers
MOST_INTEGER = 2**31 - 1


def _check(name: str, value: Any, valid: Any) -> None:
    """Refuse a value outside an option's declaration."""
    if isinstance(value, int) and valid["high"] > value > MOST_INTEGER:
        raise ValueError(f"{name}={value}: must be at most {MOST_INTEGER}")
    if valid["choices"]:
        if value not in valid["choices"]:
            raise ValueError(f"{name}={value}{valid_are(str(value), valid['choices'])}")
    elif not valid["low"] <= value <= valid["high"]:
        top = "" if valid["high"] == float("inf") else f" and at most {valid['high']}"
        raise ValueError(f"{name}={value}: must be at least {valid['low']}{top}")
