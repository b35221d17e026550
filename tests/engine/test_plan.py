"""From marks to moves and freed cells, and the record of what the rows hold."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scope_cpp.engine.cache.ledger import Ledger
from scope_cpp.engine.cache.plan import MOVES_MULTIPLE, Plan, plan_eviction
from scope_cpp.errors import ScopeError

Bool = npt.NDArray[np.bool_]
Int32 = npt.NDArray[np.int32]


@st.composite
def masks(draw: st.DrawFn) -> Bool:
    """Rows to keep: as many for every head, the newest always; some columns kept by all."""
    n_layer, n_head = draw(st.integers(1, 3)), draw(st.integers(1, 4))
    n = draw(st.integers(1, 60))
    n_keep = draw(st.integers(1, n))
    n_common = draw(st.integers(0, n_keep - 1))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    older = rng.permutation(n - 1)
    keep = np.zeros((n_layer, n_head, n), np.bool_)
    keep[:, :, older[:n_common]] = keep[:, :, -1] = True
    for layer, head in np.ndindex(n_layer, n_head):
        keep[layer, head, rng.permutation(older[n_common:])[: n_keep - 1 - n_common]] = True
    return keep


def moves(plan: Plan, layer: int, head: int) -> list[tuple[int, int]]:
    """The copies of one head that change something."""
    pairs = zip(plan.src[layer, head].tolist(), plan.dst[layer, head].tolist(), strict=True)
    return [(src, dst) for src, dst in pairs if src != dst]


def carry_out(plan: Plan, row: Int32, layer: int, head: int) -> Int32:
    """One head's rows after the plan, by the words of the native call: all reads come first."""
    copied = [(dst, row[src]) for src, dst in moves(plan, layer, head)]
    after = row.copy()
    for dst, value in copied:
        after[dst] = value
    return np.delete(after, plan.free)


@given(masks())
def test_every_head_holds_what_it_keeps(keep: Bool) -> None:
    plan = plan_eviction(keep)
    labels = np.arange(keep.shape[2], dtype=np.int32)
    for layer, head in np.ndindex(keep.shape[:2]):
        after = carry_out(plan, labels, layer, head)
        assert sorted(after) == np.flatnonzero(keep[layer, head]).tolist()
        assert after[-1] == labels[-1]


@given(masks())
def test_frees_the_cells_that_too_many_rows_took(keep: Bool) -> None:
    plan = plan_eviction(keep)
    n, n_keep = keep.shape[2], int(keep[0, 0].sum())
    assert plan.free.size == n - n_keep
    assert sorted([*plan.free, *plan.stay]) == list(range(n))
    assert (np.diff(plan.stay) > 0).all() and (np.diff(plan.free) > 0).all()


@given(masks())
def test_what_all_heads_keep_stays_in_place(keep: Bool) -> None:
    plan = plan_eviction(keep)
    common = set(np.flatnonzero(keep.all(axis=(0, 1))))
    assert not common & set(plan.free)
    for layer, head in np.ndindex(keep.shape[:2]):
        touched = {place for pair in moves(plan, layer, head) for place in pair}
        assert not common & touched
        assert keep.shape[2] - 1 not in touched


@given(masks())
def test_copies_no_more_rows_than_must_be(keep: Bool) -> None:
    plan = plan_eviction(keep)
    n_moves = 0
    for layer, head in np.ndindex(keep.shape[:2]):
        pairs = moves(plan, layer, head)
        targets = [dst for _, dst in pairs]
        assert len(set(targets)) == len(targets)
        assert not set(targets) & set(plan.free)
        # a kept row in a freed cell is lost unless it is copied; no other needs to be
        assert {src for src, _ in pairs} == set(plan.free) & set(np.flatnonzero(keep[layer, head]))
        n_moves += len(pairs)
    wanted = np.sort(keep.sum(axis=(0, 1)))
    assert n_moves == wanted[: plan.free.size].sum()  # no other freed cells cost less


@given(masks())
def test_the_native_graph_is_seldom_rebuilt(keep: Bool) -> None:
    plan = plan_eviction(keep)
    assert plan.src.shape == plan.dst.shape
    assert plan.src.shape[2] % MOVES_MULTIPLE == 0
    longest = max(len(moves(plan, *head)) for head in np.ndindex(keep.shape[:2]))
    assert plan.src.shape[2] - longest < MOVES_MULTIPLE


def test_one_choice_for_all_heads_needs_no_move() -> None:
    keep = np.broadcast_to(np.arange(9) % 2 == 0, (2, 3, 9))
    plan = plan_eviction(keep)
    assert plan.src.size == 0
    assert plan.free.tolist() == [1, 3, 5, 7]


@pytest.mark.parametrize(("heads", "uneven"), [(1, False), (1, True), (2, False)])
def test_refuses_different_numbers_of_rows(heads: int, uneven: bool) -> None:
    keep = np.ones((2, 2, 4), np.bool_)
    keep[0, :heads, 0] = False
    with pytest.raises(ScopeError, match="different number of cells"):
        plan_eviction(keep, uneven=uneven)


# layers that keep different numbers


@st.composite
def uneven_masks(draw: st.DrawFn) -> Bool:
    """As `masks`, with a number of its own for every layer."""
    n_layer, n_head, n = draw(st.integers(1, 4)), draw(st.integers(1, 3)), draw(st.integers(1, 50))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    common = rng.random(n) < draw(st.floats(0, 1))
    keep = np.zeros((n_layer, n_head, n), np.bool_)
    for layer in range(n_layer):
        n_keep = draw(st.integers(1, n))
        # what is common comes first, then another order for each head
        for head in range(n_head):
            rank = rng.random(n) - common
            rank[-1] = -2
            keep[layer, head, np.argsort(rank)[:n_keep]] = True
    return keep


@given(uneven_masks())
def test_every_layer_holds_what_it_keeps_and_no_more_cells_than_the_largest(keep: Bool) -> None:
    plan = plan_eviction(keep, uneven=True)
    counts = keep.sum(axis=2)[:, 0]
    assert plan.stay.size == counts.max() and plan.free.size == keep.shape[2] - counts.max()
    labels = np.arange(keep.shape[2], dtype=np.int32)
    for layer, head in np.ndindex(keep.shape[:2]):
        after = carry_out(plan, labels, layer, head)
        alive = after[~plan.dead[layer]]
        assert sorted(alive) == np.flatnonzero(keep[layer, head]).tolist()
        assert alive[-1] == after[-1] == labels[-1]
    changed = {*plan.free, *plan.stay[plan.dead.any(axis=0)], *plan.dst[plan.src != plan.dst]}
    assert plan.first == min(changed, default=None)


@given(uneven_masks())
def test_the_ledger_knows_what_is_dead(keep: Bool) -> None:
    n_layer, n_head, n = keep.shape
    ledger = filled(n, n_layer, n_head)
    before = ledger.scores.copy()
    plan = plan_eviction(keep, uneven=True)
    ledger.apply(plan)
    assert np.array_equal(ledger.dead, plan.dead)
    for at in np.ndindex(n_layer, n_head):
        alive = ledger.pos[at] >= 0
        assert np.array_equal(alive, ~plan.dead[at[0]])
        assert sorted(ledger.pos[at][alive]) == np.flatnonzero(keep[at]).tolist()
        assert ledger.scores[at][alive].tolist() == before[at][ledger.pos[at][alive]].tolist()
        assert not ledger.scores[at][~alive].any()


@given(uneven_masks(), st.integers(0, 2**32))
def test_dead_rows_are_filled_before_cells_are_needed(keep: Bool, seed: int) -> None:
    """Rows come back to life in a layer that keeps more the next time; the cells suffice."""
    first = plan_eviction(keep, uneven=True)
    ledger = filled(keep.shape[2], *keep.shape[:2])
    ledger.apply(first)
    rng, n_more = np.random.default_rng(seed), 5
    ledger.sync(np.append(ledger.labels, keep.shape[2] + np.arange(n_more)).astype(np.int32))
    alive = ledger.pos >= 0
    again = np.zeros_like(alive)
    for layer in range(keep.shape[0]):
        n_keep = rng.integers(1, alive[layer, 0].sum() + 1)
        for head in range(keep.shape[1]):
            rank = np.where(alive[layer, head], rng.random(alive.shape[2]), 2.0)
            rank[-1] = -1
            again[layer, head, np.argsort(rank)[:n_keep]] = True
    expected = [sorted(ledger.pos[at][again[at]]) for at in np.ndindex(keep.shape[:2])]
    plan = plan_eviction(again, uneven=True)
    assert plan.stay.size == again.sum(axis=2).max()
    ledger.apply(plan)
    held = [sorted(ledger.pos[at][ledger.pos[at] >= 0]) for at in np.ndindex(keep.shape[:2])]
    assert held == expected


# the ledger


def filled(n: int, n_layer: int = 2, n_head: int = 3) -> Ledger:
    """A ledger of tokens 0 to n - 1, whose scores say which row is whose."""
    ledger = Ledger.empty(n_layer, n_head, n_head)
    ledger.sync(np.arange(n, dtype=np.int32))
    size = n_layer * n_head * n
    ledger.scores = np.arange(size, dtype=np.float32).reshape(n_layer, n_head, n)
    return ledger


@given(masks())
def test_the_ledger_follows_the_plan(keep: Bool) -> None:
    n_layer, n_head, n = keep.shape
    ledger = filled(n, n_layer, n_head)
    before = ledger.scores.copy()
    plan = plan_eviction(keep)
    ledger.apply(plan)
    assert ledger.labels.tolist() == plan.stay.tolist()
    for at in np.ndindex(n_layer, n_head):
        assert sorted(ledger.pos[at]) == np.flatnonzero(keep[at]).tolist()
        assert ledger.scores[at].tolist() == before[at][ledger.pos[at]].tolist()


def test_new_tokens_come_with_their_position_and_no_score() -> None:
    ledger = filled(4)
    ledger.apply(plan_eviction(np.broadcast_to([False, True, True, True], (2, 3, 4))))
    ledger.sync(np.array([1, 2, 3, 4, 5], np.int32))
    assert ledger.pos.shape == (2, 3, 5)
    assert (ledger.pos == [1, 2, 3, 4, 5]).all()
    assert (ledger.scores[:, :, 3:] == 0).all() and (ledger.scores[:, :, :3] > 0).all()


def test_tokens_taken_back_leave_the_ledger() -> None:
    ledger = filled(6)
    scores = ledger.scores.copy()
    ledger.sync(np.arange(4, dtype=np.int32))
    assert ledger.labels.tolist() == [0, 1, 2, 3]
    assert np.array_equal(ledger.scores, scores[:, :, :4])
    ledger.sync(np.arange(6, dtype=np.int32))
    assert (ledger.scores[:, :, 4:] == 0).all()


def test_an_emptied_sequence_is_an_empty_ledger() -> None:
    ledger = filled(3)
    ledger.sync(np.empty(0, np.int32))
    assert ledger.pos.shape == ledger.scores.shape == (2, 3, 0)


def test_nothing_is_dead_where_nothing_is_known() -> None:
    """As of a model whose cache can't be bounded."""
    ledger = Ledger.empty(0, 0, 0)
    ledger.sync(np.arange(5, dtype=np.int32))
    assert ledger.dead.shape == (0, 5)


@pytest.mark.parametrize("labels", [[0, 1, 3, 4], [1, 2, 3, 4], [0, 1, 3], [0, 1, 3, 4, 5]])
def test_notices_cells_that_others_removed(labels: list[int]) -> None:
    ledger = filled(5)
    with pytest.raises(ScopeError, match="outside the engine"):
        ledger.sync(np.array(labels, np.int32))
    assert ledger.labels.tolist() == [0, 1, 2, 3, 4]
