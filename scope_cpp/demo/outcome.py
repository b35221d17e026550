"""What one method made of all sheets, while it writes and afterwards."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scope_cpp.demo.rows import Row
from scope_cpp.demo.sheet import Sheet
from scope_cpp.engine.generate import Stats

QUARTERS = 4

Shares = NDArray[np.float64]


@dataclass
class Text:
    """An output.

    Attributes
    ----------
    sheet : Sheet
    text : str
        So far.
    finish : str or None
        Why it ended.
    n_used : int
        Most cells in use after any token, as llama.cpp counts them.
    seconds : float
        That writing took, without reading the prompt and without what the caller did.
    stats : Stats
        The engine's.
    kept : (n_prompt + n_written,) or None
        Share of the layers and heads that still have each position at the end.
    """

    sheet: Sheet
    text: str = ""
    finish: str | None = None
    n_used: int = 0
    seconds: float = 0.0
    stats: Stats = field(default_factory=Stats)
    kept: Shares | None = None

    @property
    def n_reached(self) -> int:
        """Questions to count: all, or those that an unfinished text has come to."""
        whole = len(self.sheet.sample.answers)
        return whole if self.finish else self.sheet.n_reached(self.text)

    def marks(self) -> tuple[bool, ...]:
        """Whether each question that counts is answered right."""
        return self.sheet.marks(self.text)[: self.n_reached]

    def kept_of(self, part: str) -> float | None:
        """Share of the ``prompt`` or of the ``output`` that is kept; ``None`` before the end."""
        if self.kept is None:
            return None
        n = self.sheet.n_prompt
        cut = self.kept[:n] if part == "prompt" else self.kept[n:]
        return float(cut.mean()) if cut.size else 0.0


@dataclass
class Outcome:
    """A row of the table.

    Attributes
    ----------
    row : Row
    sheets : sequence of Sheet
        All that are to be written.
    texts : list of Text
        Those that are begun.
    """

    row: Row
    sheets: Sequence[Sheet]
    texts: list[Text] = field(default_factory=list)

    @property
    def finished(self) -> bool:
        """Whether all sheets are written."""
        return len(self.texts) == len(self.sheets) and self.texts[-1].finish is not None

    def marks(self) -> list[bool]:
        """Whether each question that counts is answered right, over all sheets."""
        return [mark for text in self.texts for mark in text.marks()]

    @property
    def n_right(self) -> int:
        """Questions answered right."""
        return sum(self.marks())

    @property
    def n_questions(self) -> int:
        """Questions that count so far."""
        return len(self.marks())

    @property
    def accuracy(self) -> float | None:
        """Share of the questions answered right; ``None`` before the first."""
        return _mean(self.marks())

    def quarters(self) -> list[float | None]:
        """Accuracy by quarter of the questions of a sheet."""
        split: list[list[bool]] = [[] for _ in range(QUARTERS)]
        for text in self.texts:
            whole = len(text.sheet.sample.answers)
            for i, mark in enumerate(text.marks()):
                split[i * QUARTERS // whole].append(mark)
        return [_mean(part) for part in split]

    @property
    def n_written(self) -> int:
        """Tokens written."""
        return sum(text.stats.n_generated for text in self.texts)

    @property
    def tokens_per_second(self) -> float | None:
        """Tokens written per second, the first of each text left out: reading ends with it."""
        seconds = sum(text.seconds for text in self.texts)
        return (self.n_written - len(self.texts)) / seconds if seconds else None

    @property
    def cells(self) -> int:
        """Most cells in use at any time, as llama.cpp counts them."""
        return max((text.n_used for text in self.texts), default=0)

    @property
    def kv_bytes(self) -> int:
        """Bytes that llama.cpp allocated for K and V, the largest of the sheets."""
        return max((text.stats.kv_bytes for text in self.texts), default=0)

    @property
    def memory_bytes(self) -> int:
        """Bytes of the cells and of all buffers that belong to them; the largest of the sheets."""
        return max((text.stats.memory_bytes for text in self.texts), default=0)

    @property
    def evicted(self) -> int:
        """Cells given up, over all sheets."""
        return sum(text.stats.evicted for text in self.texts)

    def kept_of(self, part: str) -> float | None:
        """Mean over the sheets of `Text.kept_of`."""
        shares = [share for text in self.texts if (share := text.kept_of(part)) is not None]
        return sum(shares) / len(shares) if shares else None

    def record(self, texts: bool = False) -> dict[str, Any]:
        """Return what a script may want to know; with `texts` prompts, answers and outputs too."""
        values: dict[str, Any] = {
            "policy": self.row.policy,
            "title": self.row.title,
            "finished": self.finished,
            "accuracy": self.accuracy,
            "quarters": self.quarters(),
            "right": self.n_right,
            "questions": self.n_questions,
            "cells_peak": self.cells,
            "kv_bytes": self.kv_bytes,
            "memory_bytes": self.memory_bytes,
            "evicted": self.evicted,
            "kept_of_prompt": self.kept_of("prompt"),
            "kept_of_output": self.kept_of("output"),
            "tokens_written": self.n_written,
            "tokens_per_second": self.tokens_per_second,
            "samples": [_text_record(text) for text in self.texts],
        }
        if texts:
            for text, record in zip(self.texts, values["samples"], strict=True):
                sample = asdict(text.sheet.sample)
                record |= {"sample": sample, "output": text.text}
        return values


def _text_record(text: Text) -> dict[str, Any]:
    stats = text.stats
    return {
        "id": text.sheet.sample.id,
        "finish_reason": text.finish,
        "accuracy": _mean(text.marks()),
        "prompt_tokens": text.sheet.n_prompt,
        "tokens_written": stats.n_generated,
        "cells_peak": text.n_used,
        "cells_capacity": stats.cells_capacity,
        "cells_allocated": stats.cells_allocated,
        "kv_bytes": stats.kv_bytes,
        "evicted": stats.evicted,
        "selections": stats.selections,
        "attention_loss": stats.attention_loss,
    }


def _mean(marks: Sequence[bool]) -> float | None:
    return sum(marks) / len(marks) if marks else None
