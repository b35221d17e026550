"""scope-retrieval: against loops written from its description, and what it is for."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import pytest

from scope_cpp.policies import View, make_decode
from scope_cpp.policies.scope_retrieval import Rows, ScopeRetrieval

from .trace import Engine, Trace

N_PROMPT = 40


@dataclass
class Head:
    """A head by the words of the docstring: numbers of a row by position."""

    use: dict[int, float] = field(default_factory=dict)
    busy: dict[int, float] = field(default_factory=dict)
    looks: dict[int, int] = field(default_factory=dict)
    age: dict[int, int] = field(default_factory=dict)
    found: float = 0.0
    seen: float = 0.0
    got: float = 0.0
    waited: float = 0.0

    def fold(self, queries: list[dict[int, float]], decay: float) -> None:
        n = len(queries)
        held = list(queries[-1])
        total = sum(sum(query.values()) for query in queries)
        shares = {p: n * sum(query.get(p, 0) for query in queries) / total for p in held}
        n_found = 0
        mean = sum(self.use.get(p, 0) for p in held) / len(held)
        unused = [
            p
            for p in held
            if p >= N_PROMPT and 32 <= self.age.get(p, 0) < 256 and self.use[p] < 0.3 * mean
        ]
        self.got = self.got * 0.995**n + sum(shares[p] for p in unused) * len(held)
        self.waited = self.waited * 0.995**n + n * len(unused)
        for p, share in shares.items():
            beyond = share - 8 * n / len(held)
            if beyond >= 0.1 and self.busy.get(p, 0) < 0.1:
                self.looks[p] = self.looks.get(p, 0) + 1
                n_found += p < N_PROMPT
            faded = self.busy.get(p, 0) * 0.97**n
            self.busy[p] = min(1, faded + max(0, beyond) / 0.1)
            self.use[p] = self.use.get(p, 0) * decay**n + share
            self.age[p] = self.age.get(p, 0) + n
        self.found = self.found * 0.995**n + n_found
        self.seen = self.seen * 0.995**n + n

    def looks_up(self, rate: float) -> float:
        return float(min(1, self.found / max(1, self.seen) / rate))

    def copies(self, rate: float) -> float:
        gets = (self.got + 0.1 * 1000) / (self.waited + 1000)
        copies = 16 * (gets - 0.08) * (1 - self.looks_up(rate))
        return min(32, max(0, copies)) if self.seen >= 100 else 1


def left_after_a_look(heads: Iterable[Head], held: list[set[int]]) -> float:
    repeated, by_chance, n = 0.0, 0.0, 0
    for head, rows in zip(heads, held, strict=True):
        looks = [head.looks.get(p, 0) for p in rows if p < N_PROMPT]
        repeated += sum(max(0, k - 1) for k in looks)
        by_chance += sum(looks) ** 2 / (2 * N_PROMPT)
        n += 1
    return min(1, (repeated / n + 1) / (by_chance / n + 1))


@pytest.mark.parametrize("rate", [0.01, 0.3])
@pytest.mark.parametrize(("interval", "decay"), [(1, 0.99), (4, 0.95), (5, 1.0)])
def test_as_described(interval: int, decay: float, rate: float) -> None:
    trace = Trace.random(N_PROMPT, 240, seed=5)
    sharp = Trace(trace.logits * 2, trace.keys, N_PROMPT)
    options = {"heavy": 40, "recent": 12, "interval": interval, "decay": decay, "rate": rate}
    options |= {"ahead": 0, "unlike": 0}  # rows of the output have no price
    policy = make_decode("scope-retrieval", {name: str(value) for name, value in options.items()})
    engine = Engine(sharp, policy, policy.capacity(N_PROMPT, None), None)
    engine.read_prompt(None)
    engine.since = 0
    heads = [Head() for _ in sharp.heads]
    held = [set(range(N_PROMPT)) for _ in heads]
    queries: list[list[dict[int, float]]] = [[] for _ in heads]
    for kept in engine.write():
        position = engine.n_past - 1
        if position >= N_PROMPT and position not in held[0]:
            for i, at in enumerate(sharp.heads):
                held[i].add(position)
                queries[i].append(sharp.weigh(at)(position, sorted(held[i])))
        if kept != held:
            for i, head in enumerate(heads):
                head.fold(queries[i], decay)
                queries[i] = []
            left = left_after_a_look(heads, held)
            n = engine.n_past
            handed_out = n if decay == 1 else (1 - decay**n) / (1 - decay)
            for i, head in enumerate(heads):
                full = 16 * handed_out / len(held[i]) * head.looks_up(rate) ** 3
                mean, age = handed_out / len(held[i]), {p: n - 1 - p for p in held[i]}
                worth = {
                    p: head.use.get(p, 0)
                    + (p >= N_PROMPT) * mean * 0.5 * head.copies(rate) * max(0, 1 - age[p] / 256)
                    + (p < N_PROMPT) * full * (left if head.looks.get(p, 0) else 1)
                    for p in held[i]
                }
                recent = {p for p in held[i] if p >= n - 12}
                old = sorted(held[i] - recent, key=lambda p: (worth[p], p), reverse=True)
                held[i] = recent | set(old[: 52 - len(recent)])
        assert kept == held, f"after {engine.n_past - N_PROMPT} tokens"
    assert engine.selections > 15
    assert sum(sum(head.looks.values()) for head in heads) > 10
    assert any(head.waited > 100 for head in heads) or rate < 0.1


def view(rows: Rows, n_prompt: int, limit: int) -> View:
    n = rows.use.shape[-1]
    pos = np.broadcast_to(np.arange(n, dtype=np.int32), rows.use.shape).copy()
    return View(pos, np.stack(rows), n_prompt, n, None, limit)


def policy(**options: object) -> ScopeRetrieval:
    texts = {"heavy": 16, "recent": 4, "interval": 1, **options}
    made = make_decode("scope-retrieval", {name: str(value) for name, value in texts.items()})
    assert isinstance(made, ScopeRetrieval)
    return made


def used_output(found: list[float]) -> Rows:
    """Two heads, 20 rows of a prompt that nothing used, 20 of an output that all tokens used."""
    rows = Rows(*np.zeros((len(Rows._fields), 1, 2, 40), np.float32))
    rows.price[..., :20], rows.price[..., 20:] = 1, 1e-6
    rows.use[..., 20:] = 2.5
    rows.found[:] = np.array(found)[:, None]
    rows.seen[:], rows.age[:] = 100, 100
    return rows


def test_only_heads_that_look_things_up_keep_the_prompt() -> None:
    keep = policy().select(view(used_output([30, 3]), 20, 20))
    assert keep[0, 0, :20].sum() == 16
    assert keep[0, 1, :20].sum() == 0
    assert keep[..., -4:].all()


def test_what_was_looked_up_has_been_of_use() -> None:
    rows = used_output([30, 30])
    rows.looks[..., 10:20] = 1
    keep = policy(heavy=15).select(view(rows, 20, 19))
    assert keep[..., :10].all() and not keep[..., 10:15].any()


def test_unless_look_ups_are_repeated() -> None:
    """Facts that all are asked for again: no row has less of its price, and use decides."""
    rows = used_output([30, 30])
    rows.looks[..., 10:20] = 2
    rows.use[..., 10:20] = 0.1
    keep = policy(heavy=10).select(view(rows, 20, 14))
    assert keep[..., 10:20].all()


def test_rows_of_the_output_are_worth_what_is_foreseen() -> None:
    rows = used_output([30, 30])
    new = np.zeros((len(Rows._fields), 1, 2, 2), np.float32)
    weights = np.array([[[0.0, 1.0], [0.0, 1.0]]], np.float32)
    foreseen = Rows(*policy().foresee(new, weights, None, 10))
    assert foreseen.price == pytest.approx(np.array([[[0, 0.5], [0, 0.5]]]), abs=1e-5)
    assert (foreseen.price > 0).all(), "0 is a prompt that is read just now"
    assert not new.any()
    rows.use[..., 20:] = 0
    rows.price[..., 22:24] = foreseen.price
    keep = policy(heavy=21).select(view(rows, 20, 25))
    assert keep[..., 23].all() and not keep[..., 22].any()


def test_new_rows_are_weighed_in_layers_with_a_head_that_looks_things_up() -> None:
    """A hundredth of the price: look-ups in .3 · .01^⅓ of the tokens, 6.46 of 100."""
    layers = [np.stack(used_output([0, found])) for found in (0, 6.4, 6.5, 90)]
    rows = np.concatenate(layers, axis=1)
    assert policy().looks_ahead(rows).tolist() == [False, False, True, True]
    assert policy(rate=0.1).looks_ahead(layers[1]).tolist() == [True]
    weights = np.zeros((1, 2, 2), np.float32)
    unweighed = Rows(*policy().foresee(layers[0][..., -2:], weights, None, 10))
    assert (unweighed.price == np.float32(1e-6)).all(), "0 is a prompt that is read just now"


def test_heads_that_copy_keep_what_is_new_and_others_what_they_use() -> None:
    """Unused rows of the first head got half of what all get, of the second a hundredth."""
    rows = used_output([0, 0])
    rows.price[:] = 1e-6
    rows.use[..., :30], rows.use[..., 30:] = 2, 0
    rows.waited[:], rows.got[:] = 100_000, np.array([50_000, 1_000])[:, None]
    pos = np.broadcast_to(np.r_[:30, 390:400].astype(np.int32), (1, 2, 40)).copy()
    keep = policy(heavy=10, recent=1).select(View(pos, np.stack(rows), 0, 400, None, 11))
    assert keep[0, 0, 30:].all()
    assert keep[0, 1].tolist() == [False] * 20 + [True] * 10 + [False] * 9 + [True]
    rows.seen[:] = 99  # too few tokens to know
    keep = policy(heavy=10, recent=1).select(View(pos, np.stack(rows), 0, 400, None, 11))
    assert (keep.sum(axis=-1) == 11).all() and not keep[..., 30:39].any()


@pytest.mark.parametrize(
    ("got", "found", "copies"),
    [(50, 0, 0), (100, 0, 0.32), (400, 0, 5.12), (400, 15, 2.56), (400, 30, 0), (5_000, 0, 32)],
)
def test_what_a_new_row_is_worth(got: float, found: float, copies: float) -> None:
    """c = 16 (g - .08) (1 - r/.3): g = got / 1,000, at least 0 and at most 32."""
    rows = used_output([found, found])
    rows.use[:], rows.price[:] = 0, 0.5
    rows.waited[:], rows.got[:] = 0, got - 100
    seen = view(rows, 0, 9)
    looks_up = found / 100 / 0.3
    worth = policy().worth(seen) - 16 * 0.5 * looks_up**3 * handed_out(40) / 40
    expected = 0.5 * copies * handed_out(40) / 40 * (1 - np.arange(40)[::-1] / 256)
    assert worth == pytest.approx(np.broadcast_to(expected, worth.shape), rel=1e-4, abs=1e-6)


def handed_out(n: int) -> float:
    return (1 - 0.99**n) / (1 - 0.99)


def test_all_layers_are_weighed_until_the_heads_are_known() -> None:
    rows = used_output([0, 0])
    assert policy().looks_ahead(np.stack(rows)).tolist() == [False]
    rows.seen[:] = 99
    assert policy().looks_ahead(np.stack(rows)).tolist() == [True]


def test_unused_rows_are_neither_the_newest_nor_of_a_prompt() -> None:
    rows = used_output([0, 0])
    rows.use[..., ::2] = 0  # every other row was hardly used
    rows.age[..., 30:] = 31
    observed = np.ones((1, 2, 40), np.float32)
    folded = Rows(*policy().fold(np.stack(rows), observed, 2))
    assert (folded.age[..., 0] == 102).all()
    assert (folded.waited == 2 * 5).all()
    assert folded.got == pytest.approx(2 * 5), "as much as each row gets"


def test_another_output_finds_prompts_waiting_and_answers_and_heads_as_they_were() -> None:
    rows = used_output([30, 3])
    rows.looks[:], rows.busy[:] = 2, 1
    rows.price[..., 36:] = 0  # what was read last
    before = np.stack(rows)
    begun = Rows(*policy().begin_output(before))
    assert not begun.looks.any() and not begun.busy.any()
    assert (begun.price[..., :20] == 1).all() and (begun.price[..., 36:] == 1).all()
    for name in ("use", "age", "found", "seen", "got", "waited"):
        assert np.array_equal(getattr(begun, name), getattr(rows, name))
    assert np.array_equal(begun.price[..., 20:36], rows.price[..., 20:36])
    assert np.array_equal(before, np.stack(rows)), "no input is changed"


def test_a_prompt_waits_while_it_is_read() -> None:
    """In a conversation without room: what is read goes after the answers before it."""
    rows = used_output([30, 30])
    rows.use[..., 20:], rows.price[..., 30:] = 0.1, 0
    keep = policy(heavy=30, recent=1).select(view(rows, 20, 31))
    assert keep[..., 30:].all() and keep[..., :20].all()


def test_the_recent_tokens_take_half_of_what_the_prompt_leaves() -> None:
    made = make_decode("scope-retrieval", {}).resolve(404, 100, None)
    assert isinstance(made, ScopeRetrieval)
    assert (made.heavy, made.recent, made.interval) == (248, 147, 9)
    assert made.capacity(100, None) == 404
    narrow = make_decode("scope-retrieval", {}).resolve(1_024, 896, None)
    assert isinstance(narrow, ScopeRetrieval)
    assert (narrow.heavy, narrow.recent, narrow.interval) == (957, 63, 4), "a sixteenth of all"
    roomy = make_decode("scope-retrieval", {}).resolve(8_192, 896, None)
    assert isinstance(roomy, ScopeRetrieval)
    assert (roomy.recent, roomy.interval) == (256, 32)
