"""A random trace of attention, and a run of a policy over it as an engine would do it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from scope_cpp.policies import DecodePolicy, PrefillPolicy, Step, View

from .naive import Scores


@dataclass(frozen=True)
class Trace:
    """Attention logits of every query on every position, per (layer, KV head)."""

    logits: np.ndarray  # (L, H, query, position)
    keys: np.ndarray  # (L, H, position, size); values are the keys turned around
    n_prompt: int
    ties: bool = False  # small whole weights instead of a softmax: sums are exact and often equal

    @staticmethod
    def random(n_prompt: int, n_output: int, ties: bool = False, seed: int = 0) -> Trace:
        n = n_prompt + n_output
        rng = np.random.default_rng(seed)
        popular = rng.normal(size=(2, 2, 1, n)) * 2
        logits = rng.normal(size=(2, 2, n, n)) + popular
        return Trace(logits, rng.normal(size=(2, 2, n, 3)).astype(np.float32), n_prompt, ties)

    def weights(self, head: tuple[int, int], query: int, held: list[int]) -> np.ndarray:
        raw = self.logits[head][query, held]
        if self.ties:
            return np.clip(np.round(raw), 0, 3)
        raised = np.exp(raw - raw.max())
        return raised / raised.sum()

    def weigh(self, head: tuple[int, int]) -> Callable[[int, list[int]], Scores]:
        """The same weights for the naive side, as a dict by position."""
        return lambda query, held: dict(
            zip(held, self.weights(head, query, held).tolist(), strict=True)
        )

    def key(self, head: tuple[int, int], position: int) -> list[float]:
        return self.keys[head][position].tolist()

    def value(self, head: tuple[int, int], position: int) -> list[float]:
        return self.keys[head][-1 - position].tolist()

    @property
    def heads(self) -> list[tuple[int, int]]:
        return list(np.ndindex(self.logits.shape[:2]))


def zeros(row: tuple[str, ...], shape: tuple[int, ...]) -> np.ndarray:
    """Scores of rows of which nothing is known yet."""
    return np.zeros((len(row), *shape) if row else shape, np.float32)


class Engine:
    """Rows in arrays, shuffled after every selection: the order of rows means nothing."""

    def __init__(self, trace: Trace, policy: DecodePolicy, capacity: int, n_predict: int | None):
        self.trace, self.policy, self.capacity = trace, policy, capacity
        self.n_predict = n_predict
        n_layers, n_heads, n, _ = trace.logits.shape
        self.seen = np.zeros((n, n_layers, n_heads, n), np.float32)  # weights by query, position
        self.pos = np.empty((n_layers, n_heads, 0), np.int32)
        self.acc = zeros(policy.row, (n_layers, n_heads, 0))
        self.n_past = self.n_prompt_cells = self.since = self.selections = 0
        self.rng = np.random.default_rng(1)

    def decode(self) -> None:
        shape = (*self.pos.shape[:2], 1)
        self.pos = np.concatenate([self.pos, np.full(shape, self.n_past, np.int32)], axis=-1)
        new = np.zeros((*self.acc.shape[:-1], 1), np.float32)
        self.acc = np.concatenate([self.acc, new], axis=-1)
        for head in self.trace.heads:
            held = self.pos[head].tolist()
            self.seen[(self.n_past, *head, held)] = self.trace.weights(head, self.n_past, held)
        self.n_past += 1
        self.since += 1

    def observed(self, n_queries: int) -> np.ndarray:
        by_position = self.seen[max(0, self.n_past - n_queries) : self.n_past].sum(axis=0)
        return np.take_along_axis(by_position, self.pos, axis=-1)

    def view(self, policy: DecodePolicy | PrefillPolicy, limit: int) -> View:
        n = policy.n_queries(self.since)
        if policy.needs_scores and n > 0:
            self.acc = policy.fold(self.acc, self.observed(n), n)
        view = View(self.pos, self.acc, self.trace.n_prompt, self.n_past, self.n_predict, limit)
        rows, keys = self.pos[..., None], self.trace.keys
        if policy.needs_keys:
            view = replace(view, keys=np.take_along_axis(keys, rows, axis=2))
        if policy.needs_values:
            view = replace(view, values=np.take_along_axis(keys[:, :, ::-1], rows, axis=2))
        return view

    def keep(self, mask: np.ndarray) -> None:
        kept = int(mask[0, 0].sum())
        order = self.rng.random((*mask.shape[:2], kept)).argsort(axis=-1)
        shape = (*mask.shape[:2], kept)
        self.pos = np.take_along_axis(self.pos[mask].reshape(shape), order, axis=-1)
        kept = self.acc[..., mask].reshape((*self.acc.shape[:-3], *shape))
        self.acc = np.take_along_axis(kept, np.broadcast_to(order, kept.shape), axis=-1)

    def read_prompt(self, prefill: PrefillPolicy | None) -> None:
        if prefill is not None:
            self.acc = zeros(prefill.row, self.pos.shape)
        for _ in range(self.trace.n_prompt):
            self.decode()
        if prefill is not None:
            self.keep(prefill.select(self.view(prefill, self.pos.shape[-1]), True))
            self.acc, self.since = zeros(self.policy.row, self.pos.shape), 0
        self.acc = self.policy.begin_output(self.acc)
        self.n_prompt_cells = self.pos.shape[-1]

    def step(self) -> Step:
        n_cells, n_prompt = self.pos.shape[-1], self.trace.n_prompt
        return Step(
            n_prompt,
            self.n_past,
            self.n_predict,
            self.n_prompt_cells,
            n_cells,
            self.capacity,
            self.since,
        )

    def write(self) -> Iterator[list[set[int]]]:
        """Decode to the end; yields what every head holds whenever the next token could come."""
        while True:
            assert self.pos.shape[-1] <= self.capacity
            if self.pos.shape[-1] >= self.capacity or self.policy.due(self.step()):
                self.keep(self.policy.select(self.view(self.policy, self.capacity - 1)))
                self.since, self.selections = 0, self.selections + 1
            yield [set(self.pos[head].tolist()) for head in self.trace.heads]
            if self.n_past == self.trace.logits.shape[2]:
                return
            self.decode()
