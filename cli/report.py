"""What ``scope generate`` prints: the text as it comes, then a line or a JSON object."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from scope_cpp.engine.budget import format_bytes
from scope_cpp.engine.context_params import round_up
from scope_cpp.engine.generate import Generation, Stats
from scope_cpp.engine.in_force import in_force
from scope_cpp.engine.kv_types import bytes_per_cell
from scope_cpp.printable import Printable

from . import terminal
from .settings_table import settings_table

if TYPE_CHECKING:
    from scope_cpp.engine.conversation import Conversation
    from scope_cpp.engine.speedup import Growth


class Report:
    """Sends text and statistics to where they belong.

    On a terminal the text's control characters are made visible; a file or a pipe gets it as it is.

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
        self._printable = Printable() if terminal.shows_stdout() else None

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
                terminal.write(self._printable.push(text) if self._printable else text)

    def finish(self, generation: Generation, reason: str) -> None:
        """End the text with a newline, or print the object; then the statistics."""
        if self.as_json:
            terminal.write_json(self._object(generation, reason))
        else:
            self._end_text()
        if self.verbose:
            terminal.note(settings_table(_in_force(generation)))
        if self.verbose or terminal.is_terminal():
            terminal.note(line_of(generation))

    def give_up(self) -> None:
        """End a text that an error cut off, so that the error has a line of its own."""
        if self._pieces and not self.as_json:
            self._end_text()

    def _end_text(self) -> None:
        terminal.write(self._printable.finish() if self._printable else "")
        if not (self._pieces and self._pieces[-1].endswith("\n")):
            terminal.write("\n")

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
            "memory_bytes": stats.memory_bytes,
            "kv_bytes": stats.kv_bytes,
            "fixed_bytes": stats.fixed_bytes,
            "compute_bytes": stats.compute_bytes,
            "query_bytes": stats.query_bytes,
            "selection_bytes": stats.selection_bytes,
            "evicted": stats.evicted,
            "selections": stats.selections,
            "attention_loss": stats.attention_loss,
            "policy": sizes.decode.name,
            "prefill": settings.prefill,
            "granularity": settings.granularity,
            "options": {"decode": asdict(sizes.decode), "prefill": asdict(sizes.prefill)},
            "settings": _in_force(generation),
            "seed": generation.sampler.seed,
            "timings": timings(stats),
            "warnings": self._warnings,
        }


def _in_force(generation: Generation) -> dict[str, Any]:
    sizes = generation.sizes
    return in_force(
        generation.settings, sizes.decode, sizes.prefill, sizes.capacity, generation.context
    )


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


def line_of(source: Generation | Conversation, growth: Growth | None = None) -> str:
    """Return the line of a generation, or of a conversation's last answer.

    Parameters
    ----------
    source
    growth
        Times of the conversation so far, for how much faster it is than with the full cache.
    """
    settings, n_past = source.settings, source.cache.n_past
    size = bytes_per_cell(source.model, settings.type_k, settings.type_v)
    faster = None if growth is None else growth.times_faster(source.stats, n_past)
    return status_line(source.stats, n_past, size, faster)


def status_line(stats: Stats, n_past: int, bytes_per_cell: int, faster: float | None = None) -> str:
    """Sum a generation up in one line.

    Parameters
    ----------
    stats
    n_past
        Tokens so far: the cells that the full cache would take.
    bytes_per_cell
        See `scope_cpp.engine.kv_types.bytes_per_cell`.
    faster
        How many times faster it is than with the full cache, if that is known.
    """
    rows = f" ({stats.rows_used:.0f} rows a layer)" if stats.dead_rows else ""
    cells = f"cells {stats.cells_used}/{stats.cells_capacity}{rows}"
    lost = n_past > stats.cells_used
    # in the steps that both caches are allocated in: a short text must not look as if it took more
    n_bytes = round_up(n_past) * bytes_per_cell
    full = f"full cache {n_past} cells, KV {format_bytes(n_bytes)}"
    if faster is not None:
        full += f", this is about {_compared(faster)}"
    return " | ".join(
        (
            _read(stats),
            f"generated {stats.n_generated}" + _rate(stats.generated_per_second),
            f"{cells}, evicted {stats.evicted}" if lost else f"{cells}, nothing is evicted",
            *([f"attention loss {stats.attention_loss:.2%}"] if stats.evicted else []),
            f"KV {format_bytes(stats.kv_bytes)} ({format_bytes(stats.memory_bytes)} with buffers)"
            + ("" if lost else " reserved for the budget"),
            *([full] * lost),
        )
    )


def _compared(faster: float) -> str:
    """Say how fast it is beside the full cache; a factor is always above 1."""
    if f"{max(faster, 1 / faster):.1f}" == "1.0":
        return "as fast"
    return f"{faster:.1f}x as fast" if faster > 1 else f"{1 / faster:.1f}x slower"


def _read(stats: Stats) -> str:
    """Say what was read; an answer that is written anew goes on from a prompt that is there."""
    again = f"{stats.n_again} tokens read again"
    rate = _rate(stats.prompt_per_second)
    if stats.n_prompt:
        also = f", {again}" if stats.n_again else ""
        return f"prompt {stats.n_prompt} tokens{also}{rate}"
    return f"{again}{rate}" if stats.n_again else "prompt not read again"


def _rate(per_second: float) -> str:
    """Return nothing for what took no time: that has no rate."""
    return f", {per_second:.1f} t/s" if per_second else ""
