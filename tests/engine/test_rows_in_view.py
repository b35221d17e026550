"""A policy that asks for keys or values sees those of the tokens its view tells of."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from scope_cpp.engine.cache.bounded import BoundedCache
from scope_cpp.native import kv_evict
from tests.conftest import Tiny
from tests.engine.drive import GRANULARITIES, Spy, bounded, decode_each, options, random_tokens

N_PROMPT, N_OUTPUT, BUDGET = 60, 60, 100


def newest_rows(cache: BoundedCache, n: int, values: bool) -> npt.NDArray[np.float32]:
    """Rows of the last `n` tokens, as they were written."""
    _, ids, _ = kv_evict.cells(cache.context.ptr, cache.seq)
    return kv_evict.rows(cache.context.ptr, cache.seq, ids[-n:].copy(), values=values)


@pytest.mark.parametrize("granularity", GRANULARITIES)
@pytest.mark.parametrize("policy", ["scope-slide", "h2o"])
@pytest.mark.parametrize("wanted", ["needs_keys", "needs_values"])
def test_rows_follow_their_tokens(tiny: Tiny, policy: str, granularity: str, wanted: str) -> None:
    chosen: dict[str, Any] = options(policy, granularity=granularity)
    values = wanted == "needs_values"
    with bounded(tiny(), N_PROMPT, N_OUTPUT, BUDGET, "q8_0", **chosen) as cache:
        spy: Any = Spy(cache.decode_policy)
        setattr(spy, wanted, True)
        cache.decode_policy = spy
        cache.prefill(random_tokens(N_PROMPT))
        written = [newest_rows(cache, N_PROMPT, values)]
        for token in random_tokens(N_OUTPUT, seed=6):
            decode_each(cache, [token])
            written.append(newest_rows(cache, 1, values))
        history = np.concatenate(written, axis=2)
        assert len(spy.views) > 3
        for view in spy.views:
            rows = view.values if values else view.keys
            assert (view.keys is None) == values and (view.values is None) != values
            at = np.broadcast_to(view.pos, rows.shape[:3])[..., None]
            assert np.array_equal(rows, np.take_along_axis(history, at, axis=2))


def test_nobody_pays_for_rows_unasked(tiny: Tiny) -> None:
    with bounded(tiny(), N_PROMPT, N_OUTPUT, BUDGET, **options("h2o")) as cache:
        cache.decode_policy = spy = Spy(cache.decode_policy)  # type: ignore[assignment]
        cache.prefill(random_tokens(N_PROMPT))
        decode_each(cache, random_tokens(N_OUTPUT))
        assert spy.views and all(view.keys is view.values is None for view in spy.views)
