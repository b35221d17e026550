"""A row that holds a conversation: how long until the first token of its last turn."""

from __future__ import annotations

import random
from typing import Any

from scope_cpp.bench.bounded import GREEDY, describe, load
from scope_cpp.bench.row import Compute, Row
from scope_cpp.bench.sizes import settings_of
from scope_cpp.engine.answer import Answer
from scope_cpp.engine.conversation import Conversation
from scope_cpp.engine.model import Model
from scope_cpp.native import kv_evict

WORDS = ("time", "year", "people", "way", "day", "man", "thing", "woman", "life", "child")


def text_of(model: Model, n_tokens: int, seed: int) -> str:
    """Return a text of random words that has at least `n_tokens` tokens."""
    draw, words = random.Random(seed), ["So"]
    while len(model.tokenize(" ".join(words), add_special=False)) < n_tokens:
        words.append(draw.choice(WORDS))
    return " ".join(words)


class TurnRow:
    """Asks, takes the first token, and takes the turn back; all turns before it stay."""

    def __init__(self, row: Row, compute: Compute) -> None:
        self.row = row
        self.model = load(compute)
        self.texts = [
            text_of(self.model, row.n_prompt, compute.seed + turn) for turn in range(row.n_turns)
        ]
        self.conversation = Conversation(
            self.model,
            settings=settings_of(row, compute),
            sampling=GREEDY,
            n_predict=row.n_predict,
            warn=lambda line: None,
        )

    def prepare(self) -> dict[str, Any]:
        """Hold the conversation up to its last turn; say how long that one's prompt is."""
        talk = self.conversation
        for text in self.texts[:-1]:
            for _ in talk.ask(text):
                pass
        self.step()
        n_read, n_cells = talk.stats.n_prompt, talk.stats.cells_used
        self.restore()
        cache = talk.cache
        return {
            **describe(talk.context.ptr, cache.decode_policy, cache.prefill_policy),
            "turn_tokens": n_read,
            "cells_before": n_cells - n_read,
        }

    def step(self) -> None:
        """Ask, and take the first token."""
        self._answer: Answer = self.conversation.ask(self.texts[-1])
        next(self._answer)

    def restore(self) -> None:
        """Take the turn back; what the cache held is noted first."""
        self._cells = kv_evict.n_used(self.conversation.context.ptr)
        self._answer.close()
        self.conversation.undo()

    def counters(self) -> dict[str, float]:
        """A turn's counts begin anew with it: there are no running sums."""
        return {}

    def state(self) -> dict[str, Any]:
        """Say what the cache was like after the first token."""
        return {"cells_used": self._cells, "attention_loss": None}
