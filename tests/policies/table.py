"""The table of policies: one row per policy and variant drives every property test.

A row builds the policy and says, in its own words, how many rows a selection keeps at most and
which of them must be among the kept ones.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from scope_cpp.policies import View, make_decode, make_prefill

Mask = np.ndarray
SINKS, RECENT, HEAVY, HORIZON = 3, 5, 4, 40


@dataclass(frozen=True)
class Row:
    label: str
    select: Callable[[View], Mask]
    size: Callable[[View], int]
    must_keep: Callable[[View, int], Mask]
    hard_limit: bool = True


def prompt_rows(view: View) -> int:
    return int((view.pos < view.n_prompt).sum(axis=-1).max())


def newest(view: View, n: int) -> Mask:
    return view.pos > view.n_past - 1 - n


def keep_recent(recent: int) -> Callable[[View, int], Mask]:
    return lambda view, kept: newest(view, max(1, min(recent, kept)))


def keep_sinks(view: View, kept: int) -> Mask:
    return newest(view, 1) | (view.pos < min(SINKS, kept - 1))


def keep_prompt(view: View, kept: int) -> Mask:
    room = kept - prompt_rows(view)
    if room < 1:
        return newest(view, 1)
    return (view.pos < view.n_prompt) | newest(view, min(RECENT, room))


def linear(view: View) -> int:
    longest = 2 * (HEAVY + RECENT) if view.n_predict is None else view.n_predict
    t = view.n_past - view.n_prompt
    if longest <= RECENT:
        return HEAVY if t > RECENT else 0
    return min(HEAVY, max(0, int((t - RECENT) * HEAVY / (longest - RECENT) + 1e-9)))


def scope(name: str, history: Callable[[View], int], **options: object) -> Row:
    texts = {"beta1": HEAVY, "beta2": RECENT, **options}
    policy = make_decode(name, {key: str(value) for key, value in texts.items()})
    label = " ".join([name, *(f"{key}={value}" for key, value in options.items())])
    return Row(label, policy.select, lambda v: prompt_rows(v) + RECENT + history(v), keep_prompt)


def prefill(name: str, last: int, final: bool, **options: object) -> Row:
    policy = make_prefill(name, {key: str(value) for key, value in options.items()})
    label = f"prefill {name} {'end' if final else 'chunk'} {options}"
    size = (lambda v: HEAVY + last) if final else (lambda v: v.n_rows)
    return Row(label, lambda v: policy.select(v, final), size, keep_recent(last))


FULL = make_decode("full", {})
FULL_PREFILL = make_prefill("full", {})
STREAMING = make_decode("streaming-llm", {"sinks": str(SINKS), "recent": str(RECENT)})
H2O = make_decode("h2o", {"heavy": str(HEAVY), "recent": str(RECENT)})
H2O_GRACE = make_decode("h2o", {"heavy": str(HEAVY), "recent": str(RECENT), "grace": "2"})


def everything(view: View, kept: int) -> Mask:
    return np.ones(view.pos.shape, dtype=bool)


POLICIES = [
    Row("full", FULL.select, lambda v: v.n_rows, everything, hard_limit=False),
    Row(
        "prefill full",
        lambda v: FULL_PREFILL.select(v, True),
        lambda v: v.n_rows,
        everything,
        hard_limit=False,
    ),
    Row("streaming-llm", STREAMING.select, lambda v: SINKS + RECENT, keep_sinks),
    Row("h2o", H2O.select, lambda v: HEAVY + RECENT, keep_recent(RECENT)),
    Row("h2o grace=2", H2O_GRACE.select, lambda v: HEAVY + RECENT, keep_recent(RECENT + 2)),
    scope("scope-slide", lambda v: HEAVY),
    scope("scope-slide", lambda v: HEAVY, interval=7),
    scope("scope-slide", lambda v: HEAVY, grace=3),
    scope("scope-adaptive", linear),
    scope("scope-discontinuous", linear, slack=6),
    prefill("h2o", 3, True, alpha1=HEAVY, alpha2=3),
    prefill("h2o", 3, False, alpha1=HEAVY, alpha2=3),
    prefill("snapkv", 6, True, alpha1=HEAVY, window=6),
    prefill("snapkv", 6, False, alpha1=HEAVY, window=6, pooling="max", kernel=3),
]
