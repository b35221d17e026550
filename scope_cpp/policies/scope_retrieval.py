"""Heads that look up the prompt keep it; all others keep what they attend to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np

from scope_cpp.policies.base import BoolArray, FloatArray, RowArray, View, option
from scope_cpp.policies.scope_slide import INTERVAL_SHARE
from scope_cpp.policies.scored import ScoredDecodePolicy
from scope_cpp.policies.scores.foresight import unlikeness
from scope_cpp.policies.select import count, keep_best
from scope_cpp.policies.sizes import DEFAULT_POOL
from scope_cpp.policies.unified import OneBudget


class Rows(NamedTuple):
    """What is kept in mind of the rows, float32 (L, H, n) each.

    Attributes
    ----------
    use
        Their share of the attention, decayed.
    busy
        1 after a look-up, then fading: what is looked up again soon is the same look-up.
    looks
        How often they were looked up in this output.
    price
        What they are worth beside their use: 1 of the prompt, less of the output. 0 in a row that
        is read just now, of a later prompt of a conversation: it waits as all of a prompt do.
    age
        Tokens since they were written.
    found, seen
        Of the head, and so the same in all its rows: look-ups of the prompt, and tokens, both
        fading.
    got, waited
        Of the head too: what unused young rows of the output got, in means of the rows, and for
        how many tokens how many of them waited, both fading.
    """

    use: FloatArray
    busy: FloatArray
    looks: FloatArray
    price: FloatArray
    age: FloatArray
    found: FloatArray
    seen: FloatArray
    got: FloatArray
    waited: FloatArray


LOOK = 0.1
"""A look-up is this share of a query's attention, beyond `SHARP` times the mean of all rows."""
SHARP = 8
FADE, SILENT = 0.97, 0.1
"""What `busy` is multiplied by for each token, and below what a look-up is a new one: 75 tokens."""
HORIZON = 0.995
"""What the numbers of the head are multiplied by for each token."""
STEEPNESS = 3
"""Power of a head's rate of look-ups: who looks up half as often has an eighth of the price."""
HALF = 30
"""Foresight that gives a row of the output half of the price."""
OUTPUT = np.float32(1e-6), np.float32(0.999)
"""Least and highest price of a row of an output."""
YOUNG = 256
"""Tokens over which the worth of being new fades."""
SETTLED = 32
"""Tokens after which a row that was hardly used is an unused one."""
UNUSED = np.float32(0.3)
"""Less use than this share of the mean is hardly any."""
GETS, TRUST = np.float32(0.1), np.float32(1000)
"""What unused rows are assumed to get, and for how many tokens of one row that was seen."""
ORDINARY = np.float32(0.08)
"""What unused rows get in a head that does not copy."""
COPIES = np.float32(16)
"""By what the worth of being new is multiplied, for all that unused rows get beyond that."""
MOST_FRESH = 32
"""By what the worth of being new is multiplied at most."""
NOTABLE = 0.01
"""Share of the price that some head of a layer pays before its new rows are weighed."""
KNOWN = 100
"""Tokens, fading, after which the numbers of a head are believed: 139 tokens."""
RECENT_SHARE = 16
"""Least share of all cells that the recent tokens have: a long prompt is seldom needed whole."""
PRIOR = 1
"""Look-ups for each head that are assumed to be repeated, and expected to be."""


@dataclass(frozen=True)
class ScopeRetrieval(OneBudget):
    """A row is worth its use, and a price where its head is one that looks things up.

    Few heads of a model look single tokens up that nothing has attended to for long ("retrieval
    heads", https://arxiv.org/abs/2404.15574), and what they will look up, use so far does not tell.
    So each head's look-ups of the prompt are counted while the output is written. With r of
    them a token, a row of this head is worth

        use + mean use · (`price` · min(1, r / `rate`)³ · p + `fresh` · c · n),

    where use is the attention so far, multiplied by `decay` for each token, and p is 1 for rows of
    the prompt and f / (30 + f) for those of the output, f being what `scores.foresight` gives. n
    falls from 1 to 0 in the first 256 tokens of a row of the output, and is 0 in the prompt: what
    is new had no time to be of use. In layers whose heads pay less than a hundredth of the price
    rows of the output are not weighed, which takes most of the time of choosing: f is 0 there.

    How much a new row may still become is a matter of the head. Let g be what rows of the output
    got that were 32 to 256 tokens old and hardly used, as a multiple of what a row gets in the
    mean. A head that copies a text from 100 tokens ago has a g of .3 and more; most heads return to
    the same few rows, and have about .1. c = 16 (g - .08) · (1 - min(1, r / `rate`)), at least 0
    and at most 32. Until 139 tokens were written the heads are not known: c is 1, and new rows wait
    to be weighed. A selection that comes earlier weighs them in all layers.

    A row of the prompt that was looked up has been of use. It keeps of its price what the look-ups
    so far say: those that were repeated, against those that would be if each went to any row,
    (R + 1) / (Σ L² / 2N + 1), for L look-ups in N rows, in the mean of all heads (of those of a
    layer, where layers hold different numbers of rows).

    Of our own making, after SCOPE (https://arxiv.org/abs/2412.13649), which keeps the prompt in
    all heads. DuoAttention (https://arxiv.org/abs/2410.10819) and RazorAttention
    (https://arxiv.org/abs/2407.15891) find such heads beforehand, and give the others less room.
    """

    name: ClassVar[str] = "scope-retrieval"
    needs_scores: ClassVar[bool] = True
    keeps_messages: ClassVar[bool] = True
    row: ClassVar[tuple[str, ...]] = Rows._fields
    usual_recent: ClassVar[int | None] = 256
    usual_interval: ClassVar[int] = 32

    recent: int | None = option(
        None,
        "most recent tokens; derived: half of what the prompt leaves, or 1/16 of all cells if that "
        "is more, at most 256",
        low=1,
    )
    interval: int | None = option(
        None,
        "tokens between selections; derived: 1/32 of what the prompt leaves, at most 32",
        low=1,
    )
    decay: float = option(0.99, "what older use is multiplied by per token", high=1)
    price: float = option(16.0, "worth of a row that waits to be looked up, in means of the rows")
    rate: float = option(
        0.3, "look-ups per token with which a head pays the whole price", low=0.001
    )
    fresh: float = option(
        0.5, "worth of a new row of the output, in means of the rows, by how much its head copies"
    )
    ahead: int = option(512, "last queries of the prompt that weigh each new cell ahead of its use")
    unlike: float = option(3.0, "power of how unlike a new cell is to those before it", high=16)

    def n_queries(self, since: int) -> int:
        """All queries since the last fold."""
        return since

    def begin_output(self, acc: RowArray) -> RowArray:
        """All rows of prompts wait to be looked up; answers and heads are what they were."""
        begun = acc.copy()
        rows = Rows(*begun)
        rows.looks[:], rows.busy[:] = 0, 0
        rows.price[rows.price == 0] = 1
        return begun

    def fold(self, acc: RowArray, observed: FloatArray, n: int) -> RowArray:
        """Add up use and look-ups; see `Policy.fold`."""
        n_rows = observed.shape[-1]
        total = observed.sum(axis=-1, keepdims=True)
        scale = np.divide(np.float32(n), total, out=np.zeros_like(total), where=total > 0)
        folded = np.empty_like(acc)
        rows, before = Rows(*folded), Rows(*acc)
        share = observed * scale
        look = share - np.float32(SHARP * n / n_rows)
        # few rows are looked up: only these are gone through below
        sharp = np.flatnonzero(look >= LOOK)
        np.multiply(before.use, np.float32(self.decay**n), out=rows.use)
        np.add(rows.use, share, out=rows.use)
        np.multiply(before.busy, np.float32(FADE**n), out=rows.busy)
        np.maximum(look, 0, out=look)
        look *= np.float32(1 / LOOK)
        np.add(rows.busy, look, out=rows.busy)
        np.minimum(rows.busy, 1, out=rows.busy)
        rows.looks[:], rows.price[:] = before.looks, before.price
        new = sharp[before.busy.reshape(-1)[sharp] < SILENT]
        rows.looks.reshape(-1)[new] += 1
        of_prompt = new[before.price.reshape(-1)[new] == 1]
        n_found = np.bincount(of_prompt // n_rows, minlength=total.size).reshape(total.shape)
        unused = self._unused(before)
        got = (share * unused).sum(axis=-1, keepdims=True) * np.float32(n_rows)
        waited = count(unused)[..., None] * np.float32(n)
        fading = np.float32(HORIZON**n)
        rows.found[:] = _of_head(before.found) * fading + n_found
        rows.seen[:] = _of_head(before.seen) * fading + n
        rows.got[:] = _of_head(before.got) * fading + got
        rows.waited[:] = _of_head(before.waited) * fading + waited
        np.add(before.age, n, out=rows.age)
        return folded

    def _unused(self, rows: Rows) -> BoolArray:
        """Young rows of the output that had time to be used, and hardly were, (L, H, n)."""
        unused: BoolArray = rows.use < UNUSED * rows.use.mean(axis=-1, keepdims=True)
        unused &= rows.age >= SETTLED
        unused &= rows.age < YOUNG
        unused &= self._price(rows) < 1
        return unused

    def looks_ahead(self, acc: RowArray) -> BoolArray:
        """Weigh new rows where a head pays a notable part of their price, or may; see the class."""
        rows = Rows(*acc)
        notable: BoolArray = self._pays(rows).max(axis=(1, 2)) >= NOTABLE
        return notable | ~_known(rows)

    def weighs_later(self, acc: RowArray) -> bool:
        """Weigh nothing before it is known which heads look things up, and it may not matter."""
        return not _known(Rows(*acc)).all()

    def foresee(
        self, acc: RowArray, weights: FloatArray, likeness: FloatArray | None, n_cells: int
    ) -> RowArray:
        """Give new rows their price; see `Policy.foresee`."""
        expected = self.expect(weights, likeness, n_cells)
        foreseen = acc.copy()
        Rows(*foreseen).price[:] = np.clip(expected / (HALF + expected), *OUTPUT)
        return foreseen

    def expect(self, weights: FloatArray, likeness: FloatArray | None, n_cells: int) -> FloatArray:
        """As a scored policy does with its usual weight; see `Policy.expect`."""
        usual = ScoredDecodePolicy.ahead_weight
        expected: FloatArray = np.float32(usual * n_cells) * weights
        if likeness is not None:
            expected *= unlikeness(likeness, weights.shape[1], self.unlike)
        return expected

    def select(self, view: View) -> BoolArray:
        """Keep the recent tokens and fill up with the rows that are worth most."""
        _, recent = self._pool()
        keep = self._keep(view)
        safe = view.newest(min(keep, recent))
        return keep_best(view, self.worth(view), safe, keep)

    def worth(self, view: View) -> FloatArray:
        """Numbers by which the rows compete, (L, H, n); see the class."""
        rows = Rows(*view.scores)
        price, mean_use = self._price(rows), self._mean_use(view)
        worth: FloatArray = price * (np.float32(self.price * mean_use) * self._pays(rows))
        of_prompt = rows.looks * (price == 1)
        looked = np.flatnonzero(of_prompt)
        if looked.size:
            worth.reshape(-1)[looked] *= _left(of_prompt, view.n_prompt)
        worth += rows.use
        young = (view.pos - np.int32(view.n_past - 1 - YOUNG)) * np.float32(1 / YOUNG)
        young *= self._copies(rows) * np.float32(self.fresh * mean_use)
        np.maximum(young, 0, out=young)
        young *= price < 1
        worth += young
        return worth

    def _looks_up(self, rows: Rows) -> FloatArray:
        """Rate at which each head looks up the prompt, as a share of `rate`, (L, H, 1)."""
        rate = _of_head(rows.found) / np.maximum(_of_head(rows.seen), 1)
        share: FloatArray = np.minimum(1, rate / np.float32(self.rate))
        return share

    def _pays(self, rows: Rows) -> FloatArray:
        """Share of the price that each head pays, (L, H, 1)."""
        pays: FloatArray = self._looks_up(rows) ** STEEPNESS
        return pays

    def _copies(self, rows: Rows) -> FloatArray:
        """By what the worth of being new is multiplied in each head, (L, H, 1): c of the class."""
        gets = (_of_head(rows.got) + GETS * TRUST) / (_of_head(rows.waited) + TRUST)
        copies = (gets - ORDINARY) * (1 - self._looks_up(rows)) * COPIES
        copies[~_known(rows)] = 1
        clipped: FloatArray = np.clip(copies, 0, MOST_FRESH)
        return clipped

    def _price(self, rows: Rows) -> FloatArray:
        """What rows are worth beside their use, (L, H, n): 1 of those that are read just now.

        They are what no price was foreseen for, unless none ever is.
        """
        if not (self.ahead or self.unlike):
            return rows.price
        return rows.price + (rows.price == 0)

    def _mean_use(self, view: View) -> float:
        """Use of a row if all were used alike: of every query 1 is handed out in all."""
        n = view.n_past
        handed_out = n if self.decay == 1 else (1 - self.decay**n) / (1 - self.decay)
        return handed_out / view.n_rows

    def _derive_interval(self, budget: int | None, n_prompt_cells: int) -> int:
        """As the output's pools do; see `scope_slide`."""
        pool = DEFAULT_POOL if budget is None else budget - n_prompt_cells
        return max(1, min(self.usual_interval, pool // INTERVAL_SHARE))

    def _divide(self, whole: int, n_prompt_cells: int, free: bool) -> tuple[int, int]:
        """Recent tokens take of what the prompt leaves, or a sixteenth of all; see `OneBudget`."""
        if self.heavy is not None or self.recent is not None:
            return super()._divide(whole, n_prompt_cells, free)
        most = max(1, (whole - n_prompt_cells) // 2, whole // RECENT_SHARE)
        recent = min(self.usual_recent or most, most)
        return max(0, whole - recent), recent


def _of_head(numbers: FloatArray) -> FloatArray:
    """Return a number of the heads, (L, H, 1): new rows do not have it yet."""
    number: FloatArray = numbers.max(axis=-1, keepdims=True)
    return number


def _known(rows: Rows) -> BoolArray:
    """Tell in which layers enough tokens were seen to know what heads do: bool (L,)."""
    known: BoolArray = rows.seen.max(axis=(1, 2)) >= KNOWN
    return known


def _left(looks: FloatArray, n_prompt: int) -> np.float32:
    """What rows of the prompt keep of their price once they were looked up.

    `looks` are how often, (L, H, n), 0 of the output.
    """
    n_heads = looks.shape[0] * looks.shape[1]
    n_looked = np.count_nonzero(looks)
    of_heads = looks.sum(axis=-1, dtype=np.float64)
    repeated = (of_heads.sum() - n_looked) / n_heads
    by_chance = (of_heads**2).sum() / (2 * max(1, n_prompt)) / n_heads
    return np.float32(min(1.0, (repeated + PRIOR) / (by_chance + PRIOR)))
