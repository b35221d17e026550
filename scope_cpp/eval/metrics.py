"""What the predictions of a run sum up to: a record for each row, in plain values.

Each record has ``row`` and what else `Row.to_json` has, and

- ``n``, ``errors``, ``problems``: samples with an output, samples without, odd things;
- ``score`` with ``value`` and ``ci``; ``scorers``: the same by each other scorer, and ``less``,
  how much it is above the report's;
- ``vs_full``, ``vs_scope``: paired differences to the full cache and to the first row of SCOPE,
  over the samples that both have, with ``n`` of these; ``None`` for the row itself;
- ``groups``: the score of each group, in the order of the items; ``seeds``: of each seed, where
  items were made by several; ``quarters``: of the first to the last quarter of the
  questions of an output, ``None`` where outputs have fewer than four; ``kinds``: of each
  kind of question, where a task has several; ``samples``: of each sample, where samples count
  and not questions;
- ``tokens``: mean length of the output; ``loops``: share of outputs that end in a repetition
  (`scope_cpp.eval.loops`); ``attention_loss``: mean over samples;
- ``cells_budget``, ``cells_peak``, ``cells_allocated``, ``kv_bytes``: the largest;
  ``cells_used``, ``evicted``, ``selections``: means over samples. Cells are llama.cpp's count;
- ``tokens_per_second``: all tokens of the outputs by all the time they took.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from scope_cpp.eval import stats
from scope_cpp.eval.record import Prediction
from scope_cpp.eval.rows import Row
from scope_cpp.eval.task import Item, Score, Task

Record = dict[str, Any]
ByItem = Mapping[str, Prediction]
Kinds = Mapping[str, Sequence[str]]

QUARTERS = 4


def summarize(
    task: Task,
    items: Iterable[Item],
    rows: Sequence[Row],
    predictions: Iterable[Prediction],
    scorer: str,
    seed: int,
    seeds: Mapping[str, int] | None = None,
) -> list[Record]:
    """Return a record for each row, as the module says.

    Parameters
    ----------
    task, items
        What was asked.
    rows
        In the order of the report; the first full one and the first of SCOPE are compared with.
    predictions
        Of these rows, in any order: the result does not depend on it.
    scorer
        The report's.
    seed
        Of the resampling.
    seeds
        By which each item was made, by its id.
    """
    table: dict[str, dict[str, Prediction]] = {row.name: {} for row in rows}
    for prediction in sorted(predictions, key=lambda p: p.item):
        table[prediction.row][prediction.item] = prediction
    summary = _Summary(task, list(items), seeds or {}, scorer, seed)
    full = next((row for row in rows if row.is_full), None)
    scope = next((row for row in rows if row.is_scope), None)
    records = []
    for row in rows:
        record = {**row.to_json(), "row": row.name, **summary.of(table[row.name])}
        for key, base in (("vs_full", full), ("vs_scope", scope)):
            found = base is not None and base is not row
            record[key] = summary.against(table, row.name, base.name) if found and base else None
        records.append({name: value for name, value in record.items() if name != "name"})
    return records


class _Summary:
    """Sums up by one task and scorer."""

    def __init__(
        self, task: Task, items: Sequence[Item], seeds: Mapping[str, int], scorer: str, seed: int
    ) -> None:
        self._task, self._scorer, self._seed = task, scorer, seed
        self._kinds: Kinds = {item.id: task.kinds(item) for item in items}
        self._groups = list(dict.fromkeys(item.group for item in items))
        self._seeds = {item: str(seed) for item, seed in seeds.items()}

    def of(self, by_item: ByItem) -> Record:
        """Return what one row's predictions come to."""
        done = [p for p in by_item.values() if p.error is None]
        scores = [p.scores[self._scorer] for p in done]
        return {
            "n": len(done),
            "errors": len(by_item) - len(done),
            "problems": sum(len(score.problems) for score in scores),
            "score": self._estimate(scores),
            "scorers": self._others(done, scores),
            "groups": self._by([p.group for p in done], scores, self._groups),
            "seeds": self._by_seed(done, scores),
            "quarters": _quarters(scores),
            "kinds": self._by_kind(done, scores),
            "samples": self._by_sample(done),
            **_costs(done),
        }

    def against(
        self, table: Mapping[str, ByItem], name: str, base: str
    ) -> dict[str, object] | None:
        """Return the difference of two rows over the items that both have."""
        one, other = self._shared(table[name], table[base])
        if not one:
            return None
        found = stats.difference(self._sample(one), self._sample(other), self._seed)
        return {**found.to_json(), "n": len(one)}

    def _shared(self, one: ByItem, other: ByItem) -> tuple[list[Score], list[Score]]:
        items = [i for i, p in one.items() if p.error is None and i in other]
        items = [i for i in items if other[i].error is None]
        scores = [[p[i].scores[self._scorer] for i in items] for p in (one, other)]
        return scores[0], scores[1]

    def _by_seed(self, done: Sequence[Prediction], scores: Sequence[Score]) -> Record:
        order = list(dict.fromkeys(self._seeds.values()))
        if len(order) < 2:
            return {}
        return self._by([self._seeds[p.item] for p in done], scores, order)

    def _by(self, names: Sequence[str], scores: Sequence[Score], order: Sequence[str]) -> Record:
        """Return the score of each name: those of `order` in this order, then others."""
        parts: dict[str, list[Score]] = defaultdict(list)
        for name, score in zip(names, scores, strict=True):
            parts[name].append(score)
        found = [*order, *sorted(parts.keys() - set(order))]
        return {name: self._estimate(parts[name]) for name in found if name in parts}

    def _by_kind(self, done: Sequence[Prediction], scores: Sequence[Score]) -> dict[str, float]:
        """Return the mean over all questions of each kind."""
        found: dict[str, list[float]] = defaultdict(list)
        for prediction, score in zip(done, scores, strict=True):
            kinds = self._kinds.get(prediction.item, ())
            for kind, value in zip(kinds, score.correct, strict=bool(kinds)):
                found[kind].append(value)
        return {kind: sum(values) / len(values) for kind, values in sorted(found.items())}

    def _by_sample(self, done: Sequence[Prediction]) -> dict[str, float]:
        """Return the score of each sample, where it counts as one."""
        if not self._task.per_sample:
            return {}
        return {p.item: p.scores[self._scorer].value for p in done}

    def _others(self, done: Sequence[Prediction], scores: Sequence[Score]) -> Record:
        found: Record = {}
        for name in self._task.scorers:
            if name == self._scorer or not done:
                continue
            other = self._sample([p.scores[name] for p in done])
            less = stats.difference(other, self._sample(scores), self._seed)
            found[name] = {
                **stats.estimate(other, self._seed).to_json(),
                "less": less.to_json(),
            }
        return found

    def _estimate(self, scores: Sequence[Score]) -> dict[str, object] | None:
        return stats.estimate(self._sample(scores), self._seed).to_json() if scores else None

    def _sample(self, scores: Sequence[Score]) -> stats.Sample:
        return stats.sample_of(self._task, scores)


def is_full(record: Record) -> bool:
    """Whether the row of a record keeps everything."""
    return bool(record["policy"] == "full" and record["prefill"] == "full")


def with_series(records: Iterable[Record]) -> list[Record]:
    """Name in each record its ``series``, what it shares with the same row at other budgets.

    That is its label, with the KV types where there are several.
    """
    found = list(records)
    types = {(record["type_k"], record["type_v"]) for record in found}
    named = []
    for record in found:
        kinds = dict.fromkeys((record["type_k"], record["type_v"]))
        suffix = f", {'/'.join(kinds)}" if len(types) > 1 else ""
        named.append({**record, "series": record["label"] + suffix})
    return named


def size_of(record: Record) -> str:
    """Say how many cells a row was given."""
    if record["beta"] is not None:
        return f"β = {record['beta']}"
    budget = str(record["budget"])
    return f"{budget} cells" if budget.isdigit() else f"budget {budget}"


def quarter(question: int, n: int) -> int:
    """Return in which quarter of `n` questions the `question`-th lies, both counted from 0."""
    return QUARTERS * question // n


def _quarters(scores: Sequence[Score]) -> list[float] | None:
    parts: list[list[float]] = [[] for _ in range(QUARTERS)]
    for score in scores:
        n = len(score.correct)
        for i, value in enumerate(score.correct if n >= QUARTERS else ()):
            parts[quarter(i, n)].append(value)
    return [sum(part) / len(part) for part in parts] if all(parts) else None


def _costs(done: Sequence[Prediction]) -> Record:
    def largest(name: str) -> int | None:
        return int(max(p.stats[name] for p in done)) if done else None

    def mean(values: Iterable[float | None]) -> float | None:
        found = [value for value in values if value is not None]
        return sum(found) / len(found) if found else None

    def means(name: str) -> float | None:
        return mean(p.stats[name] for p in done)

    seconds = sum(p.stats["generation_seconds"] for p in done)
    written = sum(p.stats["n_generated"] for p in done)
    return {
        "cells_budget": largest("cells_capacity"),
        "prompt_tokens": means("n_prompt"),
        "tokens": means("n_generated"),
        "loops": mean(None if p.loop is None else float(p.loop > 0) for p in done),
        "attention_loss": means("attention_loss"),
        "cells_peak": largest("cells_seen"),
        "cells_used": means("cells_used"),
        "cells_allocated": largest("cells_allocated"),
        "kv_bytes": largest("kv_bytes"),
        "evicted": means("evicted"),
        "selections": means("selections"),
        "tokens_per_second": written / seconds if seconds else None,
    }
