"""What must hold for every policy of the table, whatever the view."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scope_cpp.policies import View

from .table import HORIZON, POLICIES, Row, records

# what ODD_VALUES are for
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")

every_policy = pytest.mark.parametrize("row", POLICIES, ids=lambda row: row.label)
ODD_VALUES = np.array([0, 0, 1, 1, np.nan, np.inf, -np.inf, 3e38, -3e38], dtype=np.float32)


@st.composite
def views(draw: st.DrawFn) -> View:
    """Positions differ by head, rows are shuffled, scores have ties, NaN and infinities.

    Keys and values are there whether a policy wants them or not, and some keys are alike.
    """
    shape = (draw(st.integers(1, 3)), draw(st.integers(1, 3)), draw(st.integers(1, 40)))
    n_past = shape[2] + draw(st.just(0) | st.integers(0, 30))
    n_prompt = draw(st.integers(0, n_past))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    pos = np.empty(shape, dtype=np.int32)
    for head in np.ndindex(shape[:2]):
        older = rng.choice(n_past - 1, size=shape[2] - 1, replace=False)
        pos[head] = rng.permutation(np.append(older, n_past - 1))
    scores = rng.random(shape, dtype=np.float32)
    odd = rng.random(shape) < draw(st.sampled_from([0.0, 0.3, 1.0]))
    scores[odd] = rng.choice(ODD_VALUES, size=int(odd.sum()))
    n_predict = draw(st.none() | st.integers(n_past - n_prompt, n_past - n_prompt + HORIZON))
    limit = draw(st.integers(1, 8) | st.integers(1, 45))
    keys = rng.integers(-1, 2, size=(*shape, 2)).astype(np.float32)
    values = rng.normal(size=(*shape, 2)).astype(np.float32)
    for rows in (pos, scores, keys, values):
        rows.setflags(write=False)
    return View(pos, scores, n_prompt, n_past, n_predict, limit, keys, values)


def allowed(row: Row, view: View) -> View:
    """With the scores that the policy keeps; the full cache is only asked where everything fits."""
    view = replace(view, scores=records(view.scores, row.row))
    return view if row.hard_limit else replace(view, limit=max(view.limit, view.n_rows))


@every_policy
@given(view=views())
def test_count_is_the_size_in_every_head_and_never_above_the_limit(row: Row, view: View) -> None:
    view = allowed(row, view)
    keep = row.select(view)
    assert keep.shape == view.pos.shape
    assert keep.dtype == np.bool_
    expected = min(view.n_rows, view.limit, row.size(view))
    assert (keep.sum(axis=-1) == expected).all()


@every_policy
@given(view=views())
def test_everything_stays_where_it_fits(row: Row, view: View) -> None:
    view = allowed(row, replace(view, limit=view.n_rows))
    if view.n_rows <= row.size(view):
        assert row.select(view).all()


@every_policy
@given(view=views())
def test_newest_and_protected_rows_stay(row: Row, view: View) -> None:
    view = allowed(row, view)
    keep = row.select(view)
    must = row.must_keep(view, int(keep[0, 0].sum()))
    assert keep[must].all()
    assert keep[view.pos == view.n_past - 1].all()


@every_policy
@given(view=views())
def test_deterministic_and_inputs_untouched(row: Row, view: View) -> None:
    view = allowed(row, view)  # its arrays are read-only
    pos, scores = view.pos.copy(), view.scores.copy()
    first = row.select(view)
    assert np.array_equal(first, row.select(view))
    assert np.array_equal(pos, view.pos)
    assert scores.tobytes() == view.scores.tobytes()


@every_policy
@given(view=views(), seed=st.integers(0, 2**32 - 1))
def test_permutation_equivariant_over_rows(row: Row, view: View, seed: int) -> None:
    view = allowed(row, view)
    order = np.random.default_rng(seed).random(view.pos.shape).argsort(axis=-1)
    moved = replace(
        view,
        pos=np.take_along_axis(view.pos, order, axis=-1),
        scores=np.take_along_axis(view.scores, np.broadcast_to(order, view.scores.shape), -1),
        keys=np.take_along_axis(view.keys, order[..., None], axis=2),
        values=np.take_along_axis(view.values, order[..., None], axis=2),
    )
    there = np.take_along_axis(row.select(view), order, axis=-1)
    assert np.array_equal(row.select(moved), there)


@every_policy
def test_one_row_of_one_head(row: Row) -> None:
    pos, scores = np.zeros((1, 1, 1), np.int32), np.full((1, 1, 1), np.nan, np.float32)
    keys = np.ones((1, 1, 1, 2), np.float32)
    view = View(pos, records(scores, row.row), 0, 1, None, 1, keys, keys)
    assert row.select(view).all()


@every_policy
@given(view=views())
def test_whole_cells_are_chosen_by_keys_and_values_of_all_heads(row: Row, view: View) -> None:
    whole = replace(view, pos=view.pos[:1, :1], scores=view.scores[:1, :1])
    whole = allowed(row, whole)
    keep = row.select(whole)
    assert keep.shape == (1, 1, view.n_rows)
    assert keep.sum() == min(view.n_rows, whole.limit, row.size(whole))
