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
    row: tuple[str, ...] = ()


def prompt_rows(view: View) -> int:
    return int((view.pos < view.n_prompt).sum(axis=-1).max())


def records(scores: np.ndarray, row: tuple[str, ...]) -> np.ndarray:
    """Scores of the numbers `row` that come of others: each has some of them."""
    if not row:
        return scores
    made = np.stack([np.roll(scores, i, axis=-1) for i in range(len(row))])
    made.setflags(write=False)
    return made


def newest(view: View, n: int) -> Mask:
    return view.pos > view.n_past - 1 - n


def keep_recent(recent: int) -> Callable[[View, int], Mask]:
    return lambda view, kept: newest(view, max(1, min(recent, kept)))


def keep_first(n: int) -> Callable[[View, int], Mask]:
    return lambda view, kept: newest(view, 1) | (view.pos < min(n, kept - 1))


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


def steps(view: View) -> int:
    longest = 2 * (HEAVY + RECENT) if view.n_predict is None else view.n_predict
    return min(HEAVY, (view.n_past - view.n_prompt) // max(1, (longest - RECENT) // HEAVY))


def scope(name: str, history: Callable[[View], int], **options: object) -> Row:
    texts = {"beta1": HEAVY, "beta2": RECENT, **options}
    policy = make_decode(name, {key: str(value) for key, value in texts.items()})
    label = " ".join([name, *(f"{key}={value}" for key, value in options.items())])
    return Row(label, policy.select, lambda v: prompt_rows(v) + RECENT + history(v), keep_prompt)


def prefill(
    name: str,
    last: int,
    final: bool,
    must_keep: Callable[[View, int], Mask] | None = None,
    **options: object,
) -> Row:
    policy = make_prefill(name, {key: str(value) for key, value in options.items()})
    label = f"prefill {name} {'end' if final else 'chunk'} {options}"
    size = (lambda v: HEAVY + last) if final else (lambda v: v.n_rows)
    return Row(label, lambda v: policy.select(v, final), size, must_keep or keep_recent(last))


FULL = make_decode("full", {})
FULL_PREFILL = make_prefill("full", {})
STREAMING = make_decode("streaming-llm", {"sinks": str(SINKS), "recent": str(RECENT)})


def unified(
    name: str, must_keep: Callable[[View, int], Mask] | None = None, **options: object
) -> Row:
    """A row of a policy with one budget, of HEAVY + RECENT cells."""
    texts = {"heavy": HEAVY, "recent": RECENT, "interval": 1, **options}
    policy = make_decode(name, {key: str(value) for key, value in texts.items()})
    label = " ".join([name, *(f"{key}={value}" for key, value in options.items())])
    recent = int(str(texts["recent"]))
    must_keep = must_keep or keep_recent(recent + int(str(options.get("grace", 0))))
    return Row(label, policy.select, lambda v: HEAVY + recent, must_keep, row=policy.row)


def keep_sinks_and_recent(view: View, kept: int) -> Mask:
    recent = max(1, min(RECENT, kept))
    return newest(view, recent) | (view.pos < min(SINKS, kept - recent))


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
    Row("streaming-llm", STREAMING.select, lambda v: SINKS + RECENT, keep_first(SINKS)),
    unified("h2o"),
    unified("h2o", grace=2),
    unified("tova", recent=1),
    unified("vatp", keep_sinks_and_recent, sinks=SINKS),
    unified("r-kv", window=2),
    unified("g-kv", window=3),
    unified("openvino", keep_sinks_and_recent, sinks=SINKS, span=3),
    unified("scope-retrieval"),
    unified("scope-retrieval", price=0.0),
    scope("scope-slide", lambda v: HEAVY),
    scope("scope-slide", lambda v: HEAVY, interval=7),
    scope("scope-slide", lambda v: HEAVY, grace=3),
    scope("scope-slide", lambda v: HEAVY, score="none", ahead=4),
    scope("scope-slide", lambda v: HEAVY, score="none", unlike=2.0),
    scope("scope-foresight", lambda v: HEAVY),
    scope("scope-slide", lambda v: HEAVY, lifetime=0.5, smooth=5, span=2),
    scope("scope-slide", lambda v: HEAVY, mix=0.5, mix_over="model", mix_by="max"),
    scope("scope-slide", lambda v: HEAVY, values=1, redundancy=0.5, smooth=3, smooth_by="avg"),
    scope("scope-adaptive", linear),
    scope("scope-adaptive", steps, growth="steps"),
    scope("scope-discontinuous", linear, slack=6),
    prefill("h2o", 3, True, alpha1=HEAVY, alpha2=3),
    prefill("h2o", 3, False, alpha1=HEAVY, alpha2=3),
    prefill("streaming-llm", 3, True, keep_first(HEAVY), alpha1=HEAVY, alpha2=3),
    prefill("streaming-llm", 3, False, keep_first(HEAVY), alpha1=HEAVY, alpha2=3),
    prefill("snapkv", 6, True, alpha1=HEAVY, window=6),
    prefill("snapkv", 6, False, alpha1=HEAVY, window=6, pooling="max", kernel=3),
    # asked about all layers at once, these give each the mean; see test_pyramid for the rest
    prefill("pyramidkv", 6, True, alpha1=HEAVY, window=6),
    prefill("pyramidkv", 6, False, alpha1=HEAVY, window=6),
    prefill("pyramidinfer", 6, True, alpha1=HEAVY, window=6, sinks=0),
    prefill("pyramidinfer", 6, False, alpha1=HEAVY, window=6),
    unified("pyramidinfer", keep_sinks_and_recent, sinks=SINKS, window=2),
]
