"""What ``scope generate`` prints: the text as it comes, then a line or a JSON object."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from scope_cpp.engine.budget import format_bytes
from scope_cpp.engine.generate import Generation, Stats

from . import terminal


class Report:
    """Sends text and statistics to where they belong.

    Parameters
    ----------
    model
        Path as the user gave it.
    as_json
        One object on stdout at the end instead of text.
    verbose
        Statistics even where stderr is no terminal.
    """

    def __init__(self, model: str, *, as_json: bool, verbose: bool) -> None:
        self.model, self.as_json = model, as_json
        self.verbose = verbose
        self.no_text: str | None = None
        self._pieces: list[str] = []
        self._warnings: list[str] = []

    def warn(self, line: str) -> None:
        """Show a warning and keep it for the JSON object."""
        self._warnings.append(line)
        terminal.warning(line)

    def warn_of_silence(self, why: str, *, raw: bool) -> None:
        """Say why there is no text.

        Parameters
        ----------
        why
            See `Response.no_text`.
        raw
            Whether the text was continued although the model has a chat template.
        """
        self.no_text = why
        remedy = "; without --raw the prompt is a message to the model" if raw else ""
        self.warn(f"no text was written: {why}{remedy}")

    @property
    def shows_text(self) -> bool:
        """Whether there is any text but white space so far."""
        return any(piece.strip() for piece in self._pieces)

    def write(self, text: str) -> None:
        """Take the next piece of the output."""
        if text:
            self._pieces.append(text)
            if not self.as_json:
                terminal.write(text)

    def finish(self, generation: Generation, reason: str) -> None:
        """End the text with a newline, or print the object; then the statistics."""
        if self.as_json:
            terminal.write(json.dumps(self._object(generation, reason)) + "\n")
        elif not (self._pieces and self._pieces[-1].endswith("\n")):
            terminal.write("\n")
        if self.verbose or terminal.is_terminal():
            terminal.note(status_line(generation.stats))

    def _object(self, generation: Generation, reason: str) -> dict[str, Any]:
        stats, sizes, settings = generation.stats, generation.sizes, generation.settings
        return {
            "model": self.model,
            "text": "".join(self._pieces),
            "no_text": self.no_text,
            "finish_reason": reason,
            "usage": {
                "prompt_tokens": stats.n_prompt,
                "completion_tokens": stats.n_generated,
                "total_tokens": stats.n_prompt + stats.n_generated,
            },
            "cells_used": stats.cells_used,
            "cells_peak": stats.cells_peak,
            "rows_used": stats.rows_used,
            "cells_capacity": stats.cells_capacity,
            "cells_allocated": stats.cells_allocated,
            "kv_bytes": stats.kv_bytes,
            "query_bytes": stats.query_bytes,
            "evicted": stats.evicted,
            "selections": stats.selections,
            "attention_loss": stats.attention_loss,
            "policy": sizes.decode.name,
            "prefill": settings.prefill,
            "granularity": settings.granularity,
            "options": {"decode": asdict(sizes.decode), "prefill": asdict(sizes.prefill)},
            "seed": generation.sampler.seed,
            "timings": timings(stats),
            "warnings": self._warnings,
        }


def timings(stats: Stats) -> dict[str, float]:
    """Return times in seconds and tokens per second."""
    return {
        "prompt_seconds": stats.prompt_seconds,
        "generation_seconds": stats.generation_seconds,
        "prompt_per_second": stats.prompt_per_second,
        "generated_per_second": stats.generated_per_second,
        "score_seconds": stats.score_seconds,
        "select_seconds": stats.select_seconds,
        "move_seconds": stats.move_seconds,
    }


def status_line(stats: Stats) -> str:
    """Sum a generation up in one line."""
    rows = f" ({stats.rows_used:.0f} rows a layer)" if stats.dead_rows else ""
    beside = f" + {format_bytes(stats.query_bytes)} of queries" if stats.query_bytes else ""
    return " | ".join(
        (
            f"prompt {stats.n_prompt} tokens, {stats.prompt_per_second:.1f} t/s",
            f"generated {stats.n_generated}, {stats.generated_per_second:.1f} t/s",
            f"cells {stats.cells_used}/{stats.cells_capacity}{rows}",
            f"evicted {stats.evicted}",
            f"attention loss {stats.attention_loss:.2%}",
            f"KV {format_bytes(stats.kv_bytes)}{beside}",
        )
    )
