"""The strategies a second time, slowly: loops and sets, from the formulas of the papers alone.

Nothing here may come from the package under test. A head is a set of positions; `psi` is Ψ_K.
Where the papers are silent, the rule is the documented one: later positions win ties, and an
unknown T is 2(β1+β2), doubled (for ζ) whenever the output reaches it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from fractions import Fraction
from math import exp, floor, hypot, log

import numpy as np

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
    window: int = 16
    decay: float = 1.0
    power: float = 1.0
    lifetime: float = 0.0
    values: float = 0.0
    mix: float = 0.0
    mix_over: str = "layer"
    mix_by: str = "mean"
    redundancy: float = 0.0
    smooth: int = 1
    smooth_by: str = "max"
    span: int = 1
    grace: int = 0
    growth: str = "line"


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
        """What the rule makes of the queries since the last time."""
        fresh = self.log[self.folded :]
        if rule.score in ("window", "global"):
            fresh = self.log[-rule.window :]
        if rule.score == "last":
            fresh = self.log[-1:]
        n = rule.window if rule.score == "global" else len(fresh)
        if n == 0:
            return self.total
        seen = add_up(fresh)
        seen = {p: n * (seen.get(p, 0.0) / n) ** rule.power for p in self.held}
        before = {p: self.total.get(p, 0.0) * rule.decay**n for p in self.held}
        self.total = {p: merge(rule.score, before[p], seen, p, n) for p in self.held}
        self.folded = len(self.log)
        return self.total


def merge(score: str, before: float, seen: Scores, p: int, n: int) -> float:
    """The score of position p; `seen` has the sums over n queries of all positions held."""
    if score == "accumulate":
        return before + seen[p]
    if score == "peak":
        return max(before, seen[p] / n)
    if score == "last-use":
        return seen[p] / n if seen[p] > sum(seen.values()) / len(seen) else before
    if score == "global":
        return max(before, seen[p] / max(seen.values()))
    return seen[p]


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
    if rule.growth == "steps":
        return min(rule.beta1, t // max(1, (longest(rule) - rule.beta2) // rule.beta1))
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
        n_recent = min(keep, rule.recent + rule.grace)
        safe = {p for p in held if p >= n_past - n_recent or p < min(rule.sinks, keep - n_recent)}
        return safe | psi(keep - len(safe), scores, held - safe)
    phi_p = {p for p in held if p < n_prompt}
    phi_d = held - phi_p
    size = min(rule.beta2 + history(rule, n_past - n_prompt), room - len(phi_p))
    first = n_past - min(size, rule.beta2 + rule.grace)
    window = {p for p in phi_d if p >= first}
    return phi_p | window | psi(size - len(window), scores, phi_d - window)


Heads = dict[tuple[int, int], Scores]
Vectors = Callable[[tuple[int, int], int], list[float]]  # key or value of a head and a position


def compete(
    rule: Rule, scores: Heads, n_prompt: int, n_past: int, keys: Vectors, values: Vectors
) -> Heads:
    """What the positions that each head holds compete by."""
    if rule.lifetime:
        scores = each(scores, lambda head, p, s: s / lived(rule, n_past - p) ** rule.lifetime)
    if rule.values:
        scores = each(scores, lambda head, p, s: s * sum(map(abs, values(head, p))) ** rule.values)
    if rule.mix or rule.redundancy:
        scores = shares(scores)
    if rule.mix:
        pooled = shares(each(scores, lambda head, p, s: pool(rule, scores, head, p)))
        scores = each(scores, lambda head, p, s: (1 - rule.mix) * s + rule.mix * pooled[head][p])
    if rule.smooth > 1:
        before = scores
        scores = each(before, lambda head, p, s: smooth(rule, before[head], p))
    if rule.redundancy:
        alike = {head: redundancy(head, sorted(of), keys) for head, of in scores.items()}
        share = rule.redundancy
        scores = each(scores, lambda head, p, s: (1 - share) * s - share * alike[head][p])
    if rule.span > 1:
        whole = scores
        scores = each(whole, lambda head, p, s: span(rule.span, whole[head], p, n_prompt))
    return scores


def each(scores: Heads, change: Callable[[tuple[int, int], int, float], float]) -> Heads:
    return {head: {p: change(head, p, s) for p, s in of.items()} for head, of in scores.items()}


def lived(rule: Rule, age: int) -> float:
    """Largest sum of weights that a position can have got with one query of each age."""
    return sum(rule.decay**i for i in range(age))


def shares(scores: Heads) -> Heads:
    return each(scores, lambda head, p, s: s / sum(scores[head].values()))


def pool(rule: Rule, scores: Heads, head: tuple[int, int], p: int) -> float:
    """Mean or maximum over the heads of a layer, or of all, of what position p has there."""
    heads = [of for h, of in scores.items() if rule.mix_over == "model" or h[0] == head[0]]
    found = [of.get(p, 0.0) for of in heads]
    return max(found) if rule.mix_by == "max" else sum(found) / len(found)


def smooth(rule: Rule, scores: Scores, p: int) -> float:
    near = [s for q, s in scores.items() if abs(q - p) <= rule.smooth // 2]
    return max(near) if rule.smooth_by == "max" else sum(near) / len(near)


def span(size: int, scores: Scores, p: int, start: int) -> float:
    """Mean over the positions of p's span."""
    same = [s for q, s in scores.items() if (q - start) // size == (p - start) // size]
    return sum(same) / len(same)


def redundancy(head: tuple[int, int], held: list[int], keys: Vectors) -> Scores:
    """R of R-KV: softmax of the mean cosine to others; each key spares the latest like it."""
    cosine = {(p, q): cos(keys(head, p), keys(head, q)) for p in held for q in held if p != q}
    for p in held:
        alike = [q for q in held if p != q and cosine[p, q] > 0.5]
        if alike:
            cosine[p, alike[-1]] = 0.0
    raised = {q: exp(sum(cosine.get((p, q), 0.0) for p in held) / len(held)) for q in held}
    return {q: value / sum(raised.values()) for q, value in raised.items()}


def cos(a: list[float], b: list[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True)) / hypot(*a) / hypot(*b)


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


def prefill_streaming(head: Head, alpha1: int, alpha2: int) -> set[int]:
    """The first α1 tokens and the last α2."""
    window = last(alpha2, head.held)
    return window | set(sorted(head.held - window)[:alpha1])


# foresight


class AskedAgain:
    """One query of the prompt, and the exponents that cells get from it."""

    def __init__(self, query: np.ndarray) -> None:
        self.query = query.astype(np.float64)
        self.prompt: list[float] = []
        self.output: list[float] = []

    def read(self, keys: np.ndarray) -> None:
        self.prompt += [float(key @ self.query) for key in keys.astype(float)]

    def weigh(self, keys: np.ndarray) -> list[float]:
        """All of these cells compete with each other, and with the ones before."""
        found = [float(key @ self.query) for key in keys.astype(float)]
        self.output += found
        output, everything = log_total(self.output), log_total(self.output + self.prompt)
        return [exp(s - output) + exp(s - everything) for s in found]


def log_total(found: list[float]) -> float:
    return max(found) + log(sum(exp(s - max(found)) for s in found))


class Foresight:
    """`AskedAgain` for queries (L, query heads, q, D); rows are (L, KV heads, n, D)."""

    def __init__(self, queries: np.ndarray) -> None:
        self.n_layer, self.n_head, self.n_query, _ = queries.shape
        self.asked = {at: AskedAgain(queries[at]) for at in np.ndindex(queries.shape[:3])}

    def read(self, keys: np.ndarray, dead: np.ndarray | None = None) -> None:
        """Rows of the prompt; those that are `dead`, (L, n), do not count."""
        for (layer, head, _), one in self.asked.items():
            kv = head // (self.n_head // keys.shape[1])
            alive = slice(None) if dead is None else ~dead[layer]
            one.read(keys[layer, kv, alive])

    def weigh(self, keys: np.ndarray) -> np.ndarray:
        """Weights of new cells, (L, query heads, n)."""
        weights = np.zeros((self.n_layer, self.n_head, keys.shape[2]))
        for layer, head in np.ndindex(self.n_layer, self.n_head):
            kv = head // (self.n_head // keys.shape[1])
            group = [self.asked[layer, head, i] for i in range(self.n_query)]
            weights[layer, head] = np.max([one.weigh(keys[layer, kv]) for one in group], axis=0)
        return weights


def unlikeness(keys: np.ndarray, values: np.ndarray, n_new: int, power: float) -> np.ndarray:
    """Of the last `n_new` rows of (L, KV heads, n, D) each, NaN rows not being there."""

    def cosine(a: np.ndarray, b: np.ndarray) -> float:
        lengths = hypot(*a) * hypot(*b)
        return float(a @ b) / lengths if lengths else 0.0

    n = keys.shape[2]
    out = np.ones((*keys.shape[:2], n_new))
    for layer, head, new in np.ndindex(out.shape):
        i = n - n_new + new
        k, v = keys[layer, head].astype(float), values[layer, head].astype(float)
        likeness = [
            (cosine(k[i], k[j]) + 0.5 * cosine(v[i], v[j])) / 1.5
            for j in range(i)
            if not np.isnan(k[j]).any()
        ]
        out[layer, head, new] = min(1, max(0, 1 - max(likeness, default=-1))) ** power
    return out
