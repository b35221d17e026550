"""A number hidden in the prompt or in the generated text, asked for at the very end.

An item is a haystack in the prompt and another one that is *forced*: decoded token by token as if
the model had written it, so that it goes through the same eviction as an output of its own. The
needle is in one of them, at a depth of 10 to 90 %; the forced text ends with the question, and
what the model then writes is the answer. The question shares its words with the needle
(``lexical``) or only the meaning (``paraphrase``). Groups are place, form and depth.

Haystacks are sentences made here, without any number, or a text given by ``--data``.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import ClassVar

from scope_cpp.errors import ScopeError
from scope_cpp.eval.scorers.numbers import first_number
from scope_cpp.eval.task import Item, Option, Output, Score, Source, Task
from scope_cpp.eval.tasks.data import data_path, read_text
from scope_cpp.eval.tasks.options import read_options

PLACES = ("prompt", "output")
FORMS = ("lexical", "paraphrase")
_NEEDLES = {
    "lexical": "The number painted on the {thing} is {number}.",
    "paraphrase": "Whoever walks past the {other} can read the digits {number} there.",
}
_THINGS = (
    ("blue lantern", "azure lamp"),
    ("old clock", "antique timepiece"),
    ("red boat", "scarlet ship"),
    ("small chest", "little trunk"),
    ("green coat", "emerald jacket"),
    ("round mirror", "circular looking glass"),
    ("wooden wagon", "timber cart"),
    ("iron bell", "metal chime"),
)
_ANSWER = "The number painted on the {thing} is"
_QUESTION = f"\n\nQuestion: What is the number painted on the {{thing}}?\nAnswer: {_ANSWER}"
_WHO = (
    "A gardener", "The baker", "My neighbour", "A tired sailor", "The teacher", "An old friend",
    "The tailor", "A quiet child", "The farmer", "A young painter", "The miller", "Her cousin",
)  # fmt: skip
_DOES = (
    "waited", "sat", "read a letter", "sang", "rested", "looked for mushrooms", "fed the birds",
    "told a story", "mended a net", "peeled apples", "listened", "wrote a poem",
)  # fmt: skip
_WHERE = (
    "by the river", "under the oak", "near the market", "behind the barn", "on the hill",
    "at the crossroads", "in the meadow", "beside the well", "along the wall", "in the shade",
)  # fmt: skip
_WHEN = (
    "until the rain came", "for a while", "before supper", "as the sun went down", "all morning",
    "while the others slept", "without a word", "in the early light", "as usual",
)  # fmt: skip
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+")


class Needle(Task):
    """One question an item."""

    name: ClassVar[str] = "needle"
    summary: ClassVar[str] = "a number hidden in the prompt or in the generated text"
    options: ClassVar[dict[str, Option]] = {
        "places": Option(PLACES, "where needles are", choices=PLACES),
        "forms": Option(FORMS, "whether the question has the needle's words", choices=FORMS),
        "depths": Option((10, 30, 50, 70, 90), "how deep in the text they are, in %", high=100),
        "n": Option(2, "items for each place, form and depth", low=1, high=1000),
        "prompt": Option(6000, "characters of the prompt", low=100, high=10**7),
        "output": Option(6000, "characters that are forced", low=100, high=10**7),
    }

    def items(self, source: Source) -> list[Item]:
        """Hide needles; items of different kinds take turns."""
        values = read_options(self, source)
        haystack = _made if source.data is None else _read(data_path(self, source))
        kinds = [
            (place, form, depth, i)
            for i in range(1, values["n"] + 1)
            for depth in values["depths"]
            for place in values["places"]
            for form in values["forms"]
        ]
        return [
            _item(place, form, depth, i, source.seed, haystack, values["prompt"], values["output"])
            for place, form, depth, i in kinds[: source.limit]
        ]

    def score(self, item: Item, output: Output, scorer: str) -> Score:
        """Whether the first number of the output is the one that was hidden."""
        found = first_number(output.text)
        right = float(found == item.gold)
        return Score((right,), right, () if found is not None else ("no number in the output",))


Haystack = Callable[[Random, int], list[str]]


def _item(
    place: str, form: str, depth: int, i: int, seed: int, haystack: Haystack, *sizes: int
) -> Item:
    name = f"{place}-{form}-{depth}-{i}"
    rng = Random(f"scope-cpp needle/{seed}/{name}")
    thing, other = rng.choice(_THINGS)
    number = rng.randrange(1000, 10_000)
    texts = []
    for where, size in zip(PLACES, sizes, strict=True):
        sentences = haystack(rng, size)
        if where == place:
            needle = _NEEDLES[form].format(thing=thing, other=other, number=number)
            sentences.insert(round(len(sentences) * depth / 100), needle)
        texts.append(" ".join(sentences))
    return Item(
        id=name,
        prompt=f"Notes, and a question about them at the end.\n\n{texts[0]}\n\n",
        n_predict=16,
        gold=number,
        group=f"{place} {form} {depth}%",
        stop=("\n",),
        forced=f"{texts[1]}{_QUESTION.format(thing=thing)}",
    )


def _made(rng: Random, size: int) -> list[str]:
    """Return neutral sentences of `size` characters or a little more."""
    sentences: list[str] = []
    while size > 0:
        parts = (rng.choice(words) for words in (_WHO, _DOES, _WHERE, _WHEN))
        sentences.append(" ".join(parts) + ".")
        size -= len(sentences[-1]) + 1
    return sentences


def _read(path: Path) -> Haystack:
    """Return a source of stretches of a text, each from a sentence that is drawn."""
    text = read_text(path).replace("<|endoftext|>", " ")
    sentences = [part for part in _SENTENCE_END.split(text.strip()) if part]
    length = sum(map(len, sentences)) + len(sentences)

    def stretch(rng: Random, size: int) -> list[str]:
        if length < size:
            raise ScopeError(
                f"{path} has {length} characters of text, a haystack {size}: use a longer text, or"
                " --task-option prompt=N and output=N"
            )
        found: list[str] = []
        at = rng.randrange(len(sentences))
        while size > 0:
            found.append(sentences[at % len(sentences)])
            size -= len(found[-1]) + 1
            at += 1
        return found

    return stretch
