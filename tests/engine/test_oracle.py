"""Logits, scores and choices against a llama in NumPy that is made to hold the same rows."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from scope_cpp.engine.cache.bounded import BoundedCache
from scope_cpp.engine.cache.scorer import PROMPT_QUERIES
from tests.conftest import Tiny
from tests.engine.drive import (
    GRANULARITIES,
    Int32,
    Spy,
    bounded,
    error,
    kept,
    options,
    random_tokens,
)
from tests.engine.mirror import Mirror
from tests.policies import naive

F64 = npt.NDArray[np.float64]

N_PROMPT, N_OUTPUT, CAPACITY = 60, 140, 100

# of the logits, relative to the largest: flash attention on a CPU rounds Q, K and V to f16, adds
# up V in f16, and does so with an f32 cache too
LOGITS = 3e-3
# the plain attention in an f32 cache computes in f32 throughout
PLAIN = 2e-4
# of a score, relative to the largest one; the sum over many queries evens its rounding out
SCORES, SCORES_OF_ONE_QUERY = 2e-3, 6e-3
# of the attention loss, relative: it is a sum of small weights
LOSS = 1e-2
# at most this share of the kept rows may be others than the naive rule would keep, and only where
# the scores of both are closer than the scores' own error
TIES = 1e-3

STRATEGIES = {
    "scope-slide": "slide",
    "scope-adaptive": "adaptive",
    "scope-discontinuous": "discontinuous",
    "h2o": "h2o",
    "streaming-llm": "streaming",
}
SCORE_RULES = [
    ("score=window", "window=8"),
    ("score=window", "window=19"),  # as long as the recent window
    ("score=last",),
    ("decay=0.95",),
    ("grace=6",),
    ("interval=29",),
]


def rule_of(cache: BoundedCache) -> naive.Rule:
    """The naive implementation's rule with the sizes that the engine resolved."""
    policy: Any = cache.decode_policy
    known = {item.name for item in fields(naive.Rule)}
    sizes = {name: value for name, value in vars(policy).items() if name in known}
    return naive.Rule(STRATEGIES[policy.name], cache.capacity, cache.n_predict, **sizes)


@dataclass
class Scores:
    """Scores by true position, from the mirror's queries and the words of the rule alone."""

    rule: naive.Rule
    mirror: Mirror
    whole_cells: bool
    spy: Spy
    total: F64 = field(default_factory=lambda: np.zeros(()))
    observed: F64 = field(default_factory=lambda: np.zeros(()))

    def at_selection(self) -> F64:
        """Return (layer, KV head, position); queries that were summed up are forgotten."""
        queries, rule = self.mirror.queries, self.rule
        if rule.score == "accumulate":
            for size in self._fold_sizes(len(queries)):
                self.observed = np.sum(queries[:size], axis=0)
                self.total = self.total * rule.decay**size + self.observed
                del queries[:size]
        else:
            n = 1 if rule.score == "last" else rule.window
            self.total = np.sum([self._as_of_now(query) for query in queries[-n:]], axis=0)
            self.observed = self.total
        pooled = self.mirror.pooled(self.total, self.whole_cells)
        return np.broadcast_to(pooled, (*self.mirror.held().shape[:2], pooled.shape[2]))

    def _fold_sizes(self, n_queries: int) -> list[int]:
        """How many queries weigh alike: those scored in one call; the prompt's come first."""
        sizes, self.spy.folds = self.spy.folds, []
        assert sum(sizes) <= n_queries and max(sizes, default=0) <= PROMPT_QUERIES
        unseen = n_queries - sum(sizes)
        return [unseen, *sizes] if unseen else sizes

    def share_lost(self, kept: Int32) -> float:
        """Share of the attention that was observed last, on rows that are not `kept`."""
        held = np.take_along_axis(self.observed, self.mirror.by_head(kept), axis=2)
        return float(1 - held.sum() / self.observed.sum())

    def _as_of_now(self, query: F64) -> F64:
        """Return the weights that an earlier query gives to the rows that are left."""
        held = np.zeros_like(query)
        np.put_along_axis(held, self.mirror.by_head(self.mirror.held()), 1, axis=2)
        weights = query * held
        return np.asarray(weights / weights.sum(axis=2, keepdims=True))


@dataclass
class Report:
    """How an engine compares with its mirror.

    Attributes
    ----------
    logits
        Error of the logits.
    scores
        Largest error of a score, relative to the largest score of its selection.
    n_kept, n_other
        Rows that selections kept, over all heads; those among them that the rule would not keep.
    lead
        Largest lead of a row given up over one kept in its place, as `scores`.
    losses
        For every selection, the share of the attention that it gave up.
    """

    logits: float = 0.0
    scores: float = 0.0
    n_selections: int = 0
    n_kept: int = 0
    n_other: int = 0
    lead: float = 0.0
    losses: list[float] = field(default_factory=list)

    def compare_scores(self, spy: Spy, expected: F64) -> None:
        """Compare the scores that the policy saw last."""
        view = spy.views[-1]
        heads = expected[: view.pos.shape[0], : view.pos.shape[1]]
        off = np.abs(np.take_along_axis(heads, view.pos, axis=2) - view.scores).max()
        self.scores = max(self.scores, float(off / expected.max()))

    def compare_choice(
        self, rule: naive.Rule, cache: BoundedCache, before: Int32, after: Int32, scores: F64
    ) -> None:
        """Let the rule choose among the rows `before` of every head."""
        self.n_selections += 1
        n_past = cache.n_past - 1  # the newest token came after the choice
        for at in np.ndindex(before.shape[:2]):
            head = dict(enumerate((scores[at] / scores.max()).tolist()))
            expected = naive.choose(rule, set(before[at].tolist()), head, cache.n_prompt, n_past)
            held = set(after[at].tolist()) - {n_past}
            assert len(held) == len(expected)
            self.n_kept += len(held)
            if held != expected:
                self.n_other += len(held - expected)
                best = max(head[p] for p in expected - held)
                self.lead = max(self.lead, best - min(head[p] for p in held - expected))


def follow(cache: BoundedCache, mirror: Mirror, tokens: list[int]) -> Report:
    """Decode on both sides and compare whatever there is to compare."""
    rule, report, since = rule_of(cache), Report(), 0
    spy = cache.decode_policy = Spy(cache.decode_policy)
    scores = Scores(rule, mirror, cache.whole_cells, spy)
    ours, theirs = [], []
    for token in tokens:
        before, t = mirror.held(), cache.n_past - cache.n_prompt
        due = naive.is_due(rule, cache.n_prompt_cells, before.shape[2], t, since)
        cache.decode(token)
        assert len(spy.views) - report.n_selections == due, f"at token {t}"
        after = kept(cache)
        since = 1 if due else since + 1
        if due:
            at_selection = scores.at_selection()
            if cache.decode_policy.needs_scores:
                report.compare_scores(spy, at_selection)
                report.losses.append(scores.share_lost(after[:, :, :-1]))
            report.compare_choice(rule, cache, before, after, at_selection)
            mirror.hold(after[:, :, :-1])
        theirs.append(mirror.decode([token]))
        ours.append(cache.context.logits())
        assert (mirror.held() == after).all()
    if report.losses:
        assert np.mean(report.losses) == pytest.approx(cache.stats.attention_loss, rel=LOSS)
    report.logits = error(np.stack(ours), np.stack(theirs))
    return report


def run(path: Any, kv: str = "f16", **fields: Any) -> Report:
    tokens = random_tokens(N_PROMPT + N_OUTPUT)
    mirror = Mirror(path, kv, len(tokens))
    with bounded(path, N_PROMPT, N_OUTPUT, CAPACITY, kv, **fields) as cache:
        cache.prefill(tokens[:N_PROMPT])
        expected = mirror.decode(tokens[:N_PROMPT])
        assert error(cache.context.logits(), expected) < LOGITS
        if not cache.decode_policy.reads_prompt:
            mirror.forget()
        return follow(cache, mirror, tokens[N_PROMPT:])


def check(report: Report, at_least: int, tolerance: float = SCORES, logits: float = LOGITS) -> None:
    assert report.n_selections >= at_least
    assert report.logits < logits
    assert report.scores < tolerance
    assert report.n_other <= TIES * report.n_kept
    assert report.lead < 2 * tolerance


@pytest.mark.parametrize("kv", ["f16", "f32"])
@pytest.mark.parametrize("granularity", GRANULARITIES)
@pytest.mark.parametrize("policy", STRATEGIES)
def test_policies(tiny: Tiny, policy: str, granularity: str, kv: str) -> None:
    check(run(tiny(), kv, **options(policy, granularity=granularity)), at_least=20)


@pytest.mark.parametrize("granularity", GRANULARITIES)
@pytest.mark.parametrize("policy", STRATEGIES)
def test_policies_without_flash_attention(tiny: Tiny, policy: str, granularity: str) -> None:
    fields = options(policy, granularity=granularity)
    report = run(tiny(), "f32", flash_attn="off", **fields)
    check(report, at_least=20, tolerance=PLAIN, logits=PLAIN)


@pytest.mark.parametrize("granularity", GRANULARITIES)
@pytest.mark.parametrize("rule", SCORE_RULES, ids=" ".join)
def test_score_rules(tiny: Tiny, rule: tuple[str, ...], granularity: str) -> None:
    fields = {"policy": "scope-slide", "options": rule, "granularity": granularity}
    # one head in a group: the weights of a window's queries are known whatever was evicted since
    windowed = "score=window" in rule
    report = run(tiny(n_head_kv=8) if windowed else tiny(), **fields)
    few = "score=last" in rule or windowed
    check(report, at_least=3, tolerance=SCORES_OF_ONE_QUERY if few else SCORES)


@pytest.mark.parametrize("shape", [{"n_head_kv": 1}, {"n_head_kv": 8}, {"arch": "qwen3"}], ids=str)
def test_shapes(tiny: Tiny, shape: dict[str, Any]) -> None:
    check(run(tiny(**shape), policy="h2o", options=("interval=4",)), at_least=20)


def test_an_eviction_changes_the_logits(tiny: Tiny) -> None:
    """What the tolerances above are to be measured against."""
    tokens = random_tokens(N_PROMPT + N_OUTPUT)
    mirror = Mirror(tiny(), "f16", len(tokens))
    mirror.decode(tokens[:N_PROMPT])
    with bounded(tiny(), N_PROMPT, N_OUTPUT, CAPACITY, policy="scope-slide") as cache:
        cache.prefill(tokens[:N_PROMPT])
        errors = []
        for token in tokens[N_PROMPT:]:
            cache.decode(token)
            errors.append(error(cache.context.logits(), mirror.decode([token])))
    n_before = CAPACITY - N_PROMPT
    assert max(errors[:n_before]) < LOGITS * 2
    assert np.median(errors[n_before:]) > 0.05
