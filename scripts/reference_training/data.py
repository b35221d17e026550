"""Training sequences of the reference task, as token ids with a loss weight for each."""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random

import numpy as np

from scope_cpp.reference.task import (
    MIXES,
    Question,
    Size,
    draw_facts,
    draw_questions,
    prompt_pieces,
    stream,
)
from scope_cpp.reference.vocabulary import BOS_ID, EOS, EOS_ID, IDS, MAX_LABEL

TRAINING = "training"

# Loss weights of the 18 tokens of a worked question: those retrieved from afar and the sum weigh
# most. Kinds name what a token tests, for the accuracies that drive the curriculum.
WEIGHTS = (1, 1, 1, 0.3, 0.3, 1, 0.3, 0.3, 1, 0.3, 0.3, 0.3, 0.3, 1, 0.3, 0.3, 0.5, 0.3)
KINDS = ("label", "first", "second", "value", "answer", "sum", "end", "copy")
_KIND_OF = {0: "label", 1: "first", 2: "second", 5: "value", 13: "sum"}
CHAT_TOKENS = 160  # about as many has a row of chats
_IDS = IDS | {EOS: EOS_ID}


@dataclass
class Sequence:
    """Tokens, the weight of predicting each (0 in prompts), and each one's kind (-1: none)."""

    ids: list[int] = field(default_factory=lambda: [BOS_ID])
    weights: list[float] = field(default_factory=lambda: [0.0])
    kinds: list[int] = field(default_factory=lambda: [-1])

    def given(self, pieces: list[str]) -> None:
        """Append pieces that are not predicted."""
        self.ids += [_IDS[piece] for piece in pieces]
        self.weights += [0.0] * len(pieces)
        self.kinds += [-1] * len(pieces)

    def predicted(self, piece: str, weight: float, kind: str) -> None:
        """Append a piece to be predicted."""
        self.ids.append(_IDS[piece])
        self.weights.append(weight)
        self.kinds.append(KINDS.index(kind))

    def worked(self, question: Question) -> None:
        """Append a worked question."""
        for i, (piece, weight) in enumerate(zip(question.worked(), WEIGHTS, strict=True)):
            kind = _KIND_OF.get(i, "copy")
            if i == 8:
                kind = "answer" if question.refers else "value"
            self.predicted(piece, weight, kind)

    def ended(self) -> None:
        """Append the end of an answer."""
        self.predicted(EOS, 1.0, "end")


@dataclass(frozen=True)
class Batch:
    """Sequences, (batch, length) each; short ones are filled up with weight 0."""

    ids: np.ndarray
    weights: np.ndarray
    kinds: np.ndarray

    @property
    def tokens(self) -> int:
        """Tokens that the model reads."""
        return self.ids.shape[0] * (self.ids.shape[1] - 1)


def chain(rng: Random, size: Size) -> Sequence:
    """A prompt and its worked questions, numbered from a random label or from 1."""
    sequence = Sequence()
    facts = draw_facts(rng, size.facts)
    highest = MAX_LABEL - size.questions + 1
    first = 1 if rng.random() < 0.4 else rng.randint(1, highest)
    questions = draw_questions(rng, rng.choice(MIXES), facts, size.questions, first)
    sequence.given(prompt_pieces(rng, facts, size.filler, questions))
    for question in questions:
        sequence.worked(question)
    sequence.ended()
    return sequence


def chat(rng: Random) -> Sequence:
    """A short conversation of up to three turns.

    A turn gives facts, asks, or both; its labels follow the last ones.
    """
    sequence = Sequence()
    unused: dict[str, int] = {}
    facts = list(draw_facts(rng, 24).items())
    label = 1
    for turn in range(rng.choice((1, 1, 2, 3))):
        told = {}
        if turn == 0 or rng.random() < 0.5:
            told, facts = dict(facts[:8][: rng.randint(2, 8)]), facts[8:]
        unused |= told
        questions: list[Question] = []
        if unused and (not told or rng.random() < 0.8):
            n = rng.randint(1, min(4, len(unused)))
            questions = draw_questions(rng, "uniform", unused, n, label)
        n_filler = rng.randint(0, 2) if told else 0
        if told or questions:
            sequence.given(prompt_pieces(rng, told, n_filler, questions))
            for question in questions:
                sequence.worked(question)
                del unused[question.first]
            sequence.ended()
        label += len(questions)
    return sequence


def drill(rng: Random, size: Size) -> Sequence:
    """Facts, and then each of them again in another order: recall and nothing else."""
    sequence = Sequence()
    facts = draw_facts(rng, size.facts)
    sequence.given(prompt_pieces(rng, facts, size.filler, []))
    for key in rng.sample(list(facts), len(facts)):
        sequence.given([key])
        sequence.predicted(f"={facts[key]}", 1.0, "value")
    return sequence


def batch(kind: str, size: Size, tokens: int, seed: int, step: int) -> Batch:
    """The batch of one training step, about `tokens` long; depends on its arguments only."""
    rng = stream(TRAINING, seed, step)
    if kind == "chat":
        sequences = [chat(rng) for _ in range(max(1, tokens // CHAT_TOKENS))]
    else:
        make = {"chain": chain, "drill": drill}[kind]
        sequences = [make(rng, size)]
        while (len(sequences) + 1) * len(sequences[0].ids) <= tokens:
            sequences.append(make(rng, size))
    shape = len(sequences), max(len(sequence.ids) for sequence in sequences)
    ids = np.full(shape, EOS_ID, np.int64)
    weights, kinds = np.zeros(shape, np.float32), np.full(shape, -1, np.int64)
    for row, sequence in enumerate(sequences):
        n = len(sequence.ids)
        ids[row, :n], weights[row, :n] = sequence.ids, sequence.weights
        kinds[row, :n] = sequence.kinds
    return Batch(ids, weights, kinds)
