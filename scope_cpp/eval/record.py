"""What one item came to under one row: a line of ``predictions.jsonl``."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from scope_cpp.eval.fidelity.divergence import Divergence
from scope_cpp.eval.task import Item, Output, Score


@dataclass(frozen=True)
class Prediction:
    """An output with its scores, or the reason why there is none.

    Attributes
    ----------
    row, item
        Name of the configuration of the cache, and id of the item.
    group
        The item's group.
    digest
        `item_digest` of the item: two runs share an item if its id and digest are the same.
    output
        ``None`` if the item failed.
    scores
        By name of the scorer; empty if the item failed.
    stats
        `scope_cpp.engine.generate.Stats` as a dict, and ``cells_seen``: the most cells that
        llama.cpp counted after any token.
    loop
        See `scope_cpp.eval.loops.find_loop`; ``None`` if nothing was generated.
    error
        Why the item failed, in one line.
    sample
        The item's prompt and gold, where samples are logged.
    """

    row: str
    item: str
    group: str
    digest: str
    output: Output | None = None
    scores: Mapping[str, Score] = field(default_factory=dict)
    stats: Mapping[str, float] = field(default_factory=dict)
    loop: int | None = None
    error: str | None = None
    sample: Mapping[str, Any] | None = None

    @property
    def key(self) -> tuple[str, str]:
        """Row and item."""
        return self.row, self.item

    def to_json(self) -> dict[str, Any]:
        """Plain values; what is empty is left out."""
        values = {**asdict(self), "scores": {name: asdict(s) for name, s in self.scores.items()}}
        for name in ("nll", "divergence"):
            if self.output is not None and not getattr(self.output, name):
                del values["output"][name]
        return {name: value for name, value in values.items() if value not in (None, {})}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Prediction:
        """Build a prediction from `to_json`.

        Raises
        ------
        ValueError, TypeError, KeyError
            If the values are not those of a prediction.
        """
        output = values.get("output")
        if (output is None) == (values.get("error") is None):
            raise ValueError("neither an output nor an error")
        scores = {name: _score(score) for name, score in values.get("scores", {}).items()}
        if output is not None and not scores:
            raise ValueError("an output without a score")
        stats = {name: _number(value) for name, value in values.get("stats", {}).items()}
        names = ("row", "item", "group", "digest")
        return cls(
            **{name: _text(values[name]) for name in names},
            output=None if output is None else _output(output),
            scores=scores,
            stats=stats,
            loop=values.get("loop"),
            error=values.get("error"),
            sample=values.get("sample"),
        )


def item_digest(item: Item) -> str:
    """Return 16 hex digits that stand for all of an item."""
    text = json.dumps(asdict(item), sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _output(values: Mapping[str, Any]) -> Output:
    nll = tuple(_number(value) for value in values.get("nll", ()))
    n_tokens = int(_number(values["n_tokens"]))
    found = values.get("divergence")
    divergence = None if found is None else Divergence.from_json(found)
    return Output(_text(values["text"]), n_tokens, _text(values["finish"]), nll, divergence)


def _score(values: Mapping[str, Any]) -> Score:
    correct = tuple(_number(value) for value in values["correct"])
    problems = tuple(_text(line) for line in values["problems"])
    return Score(correct, _number(values["value"]), problems)


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{value!r} is no number")
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no text")
    return value
