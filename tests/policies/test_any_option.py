"""Any value of any option is refused in one line, or gives a policy that keeps to its capacity."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from scope_cpp.errors import UsageError
from scope_cpp.policies import (
    DecodePolicy,
    PrefillPolicy,
    View,
    decode_policies,
    make_decode,
    make_prefill,
    prefill_policies,
)
from scope_cpp.policies.select import count
from tests.policies.extremes import extremes, options
from tests.policies.table import records

BUDGET, N_PROMPT = 64, 20


def view(n: int, n_prompt: int, limit: int) -> View:
    draw = np.random.default_rng(n)
    shape = (1, 2, n)
    keys, values = draw.standard_normal((2, *shape, 4), np.float32)
    pos = np.broadcast_to(np.arange(n, dtype=np.int32), shape).copy()
    scores = draw.random(shape, np.float32)
    return View(pos, scores, n_prompt, n, 100, limit, keys, values, layer=0, n_layers=2)


def cases(kinds: dict[str, type]) -> list[tuple[str, str]]:
    return [(name, item.name) for name, kind in kinds.items() for item in options(kind)]


def check(marks: np.ndarray, shown: View) -> None:
    assert count(marks).max() <= shown.limit and marks[:, :, -1].all()


@pytest.mark.parametrize(("name", "key"), cases(dict(decode_policies())))
def test_of_a_decode_policy(name: str, key: str) -> None:
    item = next(item for item in options(decode_policies()[name]) if item.name == key)
    n_taken = 0
    for text in extremes(item):
        try:
            policy: DecodePolicy = make_decode(name, {key: text})
            policy = policy.resolve(BUDGET, N_PROMPT, 100)
        except (UsageError, ValueError) as err:
            assert "\n" not in str(err)
            continue
        n_taken += 1
        capacity = policy.capacity(N_PROMPT, 100)
        assert 1 <= capacity <= BUDGET
        assert 1 <= policy.chunk(capacity) < capacity
        shown = view(capacity, N_PROMPT, capacity - 1)
        weights, shown = shown.scores, replace(shown, scores=records(shown.scores, policy.row))
        with np.errstate(all="ignore"):
            policy.fold(shown.scores, weights, 2)
            policy.foresee(shown.scores, weights, None, 50)
            check(policy.select(shown), shown)
    assert n_taken > 0


@pytest.mark.parametrize(("name", "key"), cases(dict(prefill_policies())))
def test_of_a_prefill_policy(name: str, key: str) -> None:
    item = next(item for item in options(prefill_policies()[name]) if item.name == key)
    n_taken = 0
    for text in extremes(item):
        try:
            policy: PrefillPolicy = make_prefill(name, {key: text})
            policy = policy.resolve(BUDGET, 100)
        except (UsageError, ValueError) as err:
            assert "\n" not in str(err)
            continue
        n_taken += 1
        assert 1 <= policy.cells(100) < BUDGET
        n_chunk = policy.chunk(BUDGET)
        assert 1 <= n_chunk < BUDGET
        for final in (False, True):
            shown = view(BUDGET, 100, BUDGET if final else BUDGET - n_chunk)
            with np.errstate(all="ignore"):
                check(policy.select(shown, final), shown)
    assert n_taken > 0
