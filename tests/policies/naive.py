"""The strategies a second time, slowly: loops and sets, from the formulas of the papers alone.

Nothing here may come from the package under test. A head is a set of positions; `psi` is Ψ_K.
Where the papers are silent, the rule is the documented one: later positions win ties, and an
unknown T is 2(β1+β2), doubled (for ζ) whenever the output reaches it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from fractions import Fraction
from math import floor

Scores = dict[int, float]


def psi(k: int, scores: Scores, among: set[int]) -> set[int]:
    """Ψ_K: the k positions with the largest scores."""
    ranked = sorted(among, key=lambda p: (scores.get(p, 0.0), p), reverse=True)
    return set(ranked[: max(0, k)])


def last(k: int, among: set[int]) -> set[int]:
    """The k latest positions."""
    return set(sorted(among)[len(among) - k :]) if k > 0 else set()


@dataclass
class Rule:
    """Sizes and the score rule of one run; unused ones stay at 0."""

    strategy: str
    capacity: int
    n_predict: int | None = None
    beta1: int = 0
    beta2: int = 0
    interval: int = 1
    heavy: int = 0
    recent: int = 0
    sinks: int = 0
    score: str = "accumulate"
    window: int = 1
    decay: float = 1.0
    grace: int = 0


@dataclass
class Head:
    """What one KV head holds, the attention it has seen, and the sums of what was folded."""

    held: set[int] = field(default_factory=set)
    log: list[Scores] = field(default_factory=list)  # one per query, oldest first
    total: Scores = field(default_factory=dict)
    folded: int = 0  # queries of the log that are in the total

    def attend(self, position: int, weigh: Callable[[int, list[int]], Scores]) -> None:
        self.held.add(position)
        self.log.append(weigh(position, sorted(self.held)))

    def scores(self, rule: Rule) -> Scores:
        if rule.score == "last":
            return self.log[-1]
        if rule.score == "window":
            return add_up(self.log[-rule.window :])
        fresh = self.log[self.folded :]
        aged = {p: w * rule.decay ** len(fresh) for p, w in self.total.items()}
        self.total = add_up([aged, *fresh])
        self.folded = len(self.log)
        return self.total


def add_up(parts: list[Scores]) -> Scores:
    total: Scores = {}
    for part in parts:
        for position, weight in part.items():
            total[position] = total.get(position, 0.0) + weight
    return total


def longest(rule: Rule) -> int:
    return 2 * (rule.beta1 + rule.beta2) if rule.n_predict is None else rule.n_predict


def history(rule: Rule, t: int) -> int:
    """β1(t) = (t−β2)·β1/(T−β2)."""
    if rule.strategy == "slide" or t >= longest(rule):
        return rule.beta1
    if t <= rule.beta2:
        return 0
    return floor(Fraction((t - rule.beta2) * rule.beta1, longest(rule) - rule.beta2))


def zeta(rule: Rule, t: int) -> int:
    """ζ = (T−β2)/β1, for an unknown T with the T that t has doubled so far."""
    horizon = longest(rule)
    while rule.n_predict is None and t >= horizon:
        horizon *= 2
    return max(1, floor(Fraction(horizon - rule.beta2, rule.beta1)))


def is_due(rule: Rule, n_prompt_cells: int, n_cells: int, t: int, since: int) -> bool:
    """Whether a selection follows the t-th generated token."""
    output = n_cells - n_prompt_cells
    if n_cells >= rule.capacity:
        return True
    if rule.strategy == "streaming":
        return n_cells > rule.sinks + rule.recent
    if rule.strategy == "h2o":
        return n_cells >= rule.heavy + rule.recent + rule.interval
    if rule.strategy == "slide":
        return output == rule.beta1 + rule.beta2 + rule.interval
    grown = output > rule.beta2 + history(rule, t)
    if rule.strategy == "adaptive":
        return grown
    period = zeta(rule, t)
    return grown and t - rule.beta2 >= period and since >= period


def choose(rule: Rule, held: set[int], scores: Scores, n_prompt: int, n_past: int) -> set[int]:
    """The positions that one head keeps."""
    room = rule.capacity - 1
    if rule.strategy == "streaming":
        sinks = {p for p in held if p < rule.sinks}
        return sinks | last(min(room, rule.sinks + rule.recent) - len(sinks), held - sinks)
    if rule.strategy == "h2o":
        keep = min(room, rule.heavy + rule.recent)
        window = {p for p in held if p >= n_past - min(keep, rule.recent + rule.grace)}
        return window | psi(keep - len(window), scores, held - window)
    phi_p = {p for p in held if p < n_prompt}
    phi_d = held - phi_p
    size = min(rule.beta2 + history(rule, n_past - n_prompt), room - len(phi_p))
    first = n_past - min(size, rule.beta2 + rule.grace)
    window = {p for p in phi_d if p >= first}
    return phi_p | window | psi(size - len(window), scores, phi_d - window)


def prefill_h2o(head: Head, alpha1: int, alpha2: int) -> set[int]:
    """Ψ_α1(AttP[: −α2]), attention summed over all queries, ∪ the last α2 tokens."""
    window = last(alpha2, head.held)
    return window | psi(alpha1, add_up(head.log), head.held - window)


def prefill_snapkv(head: Head, alpha1: int, window: int, kernel: int, pooling: str) -> set[int]:
    """Top α1 by the window's attention, pooled over neighbours, ∪ the window."""
    observed = add_up(head.log[-window:])
    safe = last(window, head.held)
    prefix = sorted(head.held - safe)
    pooled: Scores = {}
    for i, position in enumerate(prefix):
        near = prefix[max(0, i - kernel // 2) : i + kernel // 2 + 1]
        weights = [observed.get(p, 0.0) for p in near]
        pooled[position] = max(weights) if pooling == "max" else sum(weights) / len(weights)
    return safe | psi(alpha1, pooled, set(prefix))
