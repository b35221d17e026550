"""Which positions stayed, as a map of blocks in the terminal's width."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from rich.text import Text

from scope_cpp.errors import UsageError

from .views import pool_name

if TYPE_CHECKING:
    from scope_cpp.engine.conversation import Conversation, Pool

# from nothing to all; the second for terminals without Unicode
SHADES = ("·░▒▓█", ".-+*#")
_STYLES = {"system": "magenta", "prompt": "cyan", "answer": "green"}

_MOST_ROWS = 12  # of the map, without labels
_LABEL = 18
_NARROW = 44


def choose(conversation: Conversation, words: Sequence[str]) -> tuple[str, NDArray[np.float64]]:
    """Return what was asked for, and for each position the share of heads that kept it.

    Parameters
    ----------
    words
        Nothing for all heads, a layer, or a layer and a KV head.

    Raises
    ------
    UsageError
        For a layer or head that the model does not have.
    """
    heads = {one.layer: one.n_head_kv for one in conversation.model.cell_layers}
    numbers = [_number(word) for word in words]
    if len(numbers) > 2:
        raise UsageError("/heatmap takes a layer and a KV head: /heatmap 0 1")
    layers = list(heads)
    if numbers:
        if numbers[0] not in layers:
            raise UsageError(f"no layer {numbers[0]} with a cache: give {_range(layers)}")
        layers = numbers[:1]
    if len(numbers) == 2 and numbers[1] >= heads[layers[0]]:
        have = _range(range(heads[layers[0]]))
        raise UsageError(f"layer {layers[0]} has no KV head {numbers[1]}: give {have}")
    pairs = [(layer, head) for layer in layers for head in range(heads[layer])]
    if len(numbers) == 2:
        pairs = [(numbers[0], numbers[1])]
    kept = np.mean([conversation.kept(layer, head) for layer, head in pairs], axis=0)
    what = ("all layers and heads", "layer {}, all heads", "layer {}, KV head {}")[len(numbers)]
    return what.format(*numbers), np.asarray(kept, np.float64)


def draw(
    what: str, kept: NDArray[np.float64], pools: Sequence[Pool], width: int, shades: str = SHADES[0]
) -> Text:
    """Return the map.

    Parameters
    ----------
    what
        The heads that it shows.
    kept : (n,)
        Share of those heads that kept each position.
    pools
        In their order; their tokens add up to `n` at least.
    width
        Columns of the terminal.
    shades
        Five characters, from nothing to all.
    """
    narrow = width < _NARROW
    columns = max(1, width - (0 if narrow else _LABEL) - 1)
    per = max(1, math.ceil(len(kept) / (columns * _MOST_ROWS)))
    text = Text(f"{what}: {_share(kept)} of {len(kept)} positions kept\n", end="")
    start = 0
    for pool in pools:
        part = kept[start : start + pool.n_tokens]
        start += len(part)
        if len(part):
            text.append_text(_pool(pool, part, per, columns, narrow, shades))
    return text.append(legend(per, shades))


def blocks(kept: NDArray[np.float64], per: int) -> NDArray[np.float64]:
    """Return the mean of each `per` positions; the last block may have fewer."""
    starts = np.arange(0, len(kept), per)
    sizes = np.diff(np.append(starts, len(kept)))
    return np.asarray(np.add.reduceat(kept, starts) / sizes, np.float64)


def strip(kept: NDArray[np.float64], per: int, shades: str) -> str:
    """Return a mark for each `per` positions."""
    return "".join(_mark(share, shades) for share in blocks(kept, per))


def _pool(
    pool: Pool,
    kept: NDArray[np.float64],
    per: int,
    columns: int,
    narrow: bool,
    shades: str,
) -> Text:
    name = pool_name(pool)
    label = f"{name} {_share(kept)}"
    marks = strip(kept, per, shades)
    rows = [marks[i : i + columns] for i in range(0, len(marks), columns)]
    text = Text(label + "\n" if narrow else f"{name:<11}{_share(kept):>5}  ")
    style = _STYLES.get(pool.kind, "")
    for i, row in enumerate(rows):
        text.append("" if narrow or not i else " " * _LABEL)
        text.append(row, style)
        text.append("\n")
    return text


def _mark(share: float, shades: str) -> str:
    """All and nothing have marks of their own; between them the rest in equal parts."""
    if share <= 0:
        return shades[0]
    if share >= 1:
        return shades[-1]
    return shades[1 + min(int(share * (len(shades) - 2)), len(shades) - 3)]


def legend(per: int, shades: str) -> str:
    """Return a line that says what the marks mean."""
    of = "a position" if per == 1 else f"{per} positions"
    names = ("none", "to 1/3", "to 2/3", "more", "all")
    marks = ", ".join(f"{shade} {name}" for shade, name in zip(shades, names, strict=True))
    return f"one mark is {of}; kept: {marks}"


def _share(kept: NDArray[np.float64]) -> str:
    return f"{kept.mean() * 100:.0f}%" if len(kept) else "0%"


def _number(word: str) -> int:
    if not word.isdecimal():
        raise UsageError(f"{word!r} is no number: /heatmap LAYER HEAD, both from 0")
    return int(word)


def _range(numbers: Sequence[int]) -> str:
    return f"{numbers[0]} to {numbers[-1]}" if len(numbers) > 1 else str(numbers[0])
