"""Rows for a parallel engine, the same rows alone, and an engine that is watched at each step."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from scope_cpp.engine.generate import Generation, Response
from scope_cpp.engine.model import Model
from scope_cpp.engine.parallel import Event, ParallelEngine, Request
from scope_cpp.engine.sampling import SamplingParams
from scope_cpp.engine.settings import Settings
from scope_cpp.native import kv_evict
from tests.native.harness import random_tokens

# plain attention: that of a row alone, bounded or not, is the engine's
DIALS: dict[str, Any] = {"n_threads": 1, "n_threads_batch": 1, "flash_attn": "off"}


def settings(**fields: Any) -> Settings:
    """Settings with the dials of all tests."""
    return Settings(**{**DIALS, **fields})


def request(
    prompt: Any, n_predict: int | None = 60, temp: float = 0, seed: int = 1, **fields: Any
) -> Request:
    """Make a row; names of `Settings` go there, those of `Request` stay, others are sampling's."""
    chosen = {name: fields.pop(name) for name in list(fields) if hasattr(Settings, name)}
    own = {n: fields.pop(n) for n in ("stop", "parse_special", "logprobs") if n in fields}
    sampling = SamplingParams(temp=temp, seed=seed, **{"ignore_eos": True, **fields})
    text = prompt if isinstance(prompt, str) else tuple(prompt)
    return Request(text, n_predict, settings(**chosen), sampling, **own)


def alone(model: Model, row: Request) -> list[Response]:
    """Responses of a row in a context of its own."""
    with Generation(
        model,
        row.prompt,
        n_predict=row.n_predict,
        settings=row.settings,
        sampling=row.sampling,
        stop=row.stop,
        parse_special=row.parse_special,
        warn=lambda line: None,
    ) as generation:
        return list(generation)


@contextmanager
def greedily(path: Path, n_prompt: int, n_predict: int, **fields: Any) -> Iterator[Generation]:
    """Open a model's file and write that many tokens, without warnings."""
    with (
        Model.load(path) as model,
        Generation(
            model,
            random_tokens(n_prompt),
            n_predict=n_predict,
            settings=settings(**fields),
            sampling=SamplingParams(temp=0, ignore_eos=True),
            warn=lambda line: None,
        ) as generation,
    ):
        yield generation


def tokens_of(said: list[Response] | list[Event]) -> list[int | None]:
    """Tokens of a row."""
    return [item.response.token if isinstance(item, Event) else item.token for item in said]  # type: ignore[union-attr]


@contextmanager
def engine(model: Model, n_parallel: int, n_cells: int, **fields: Any) -> Iterator[ParallelEngine]:
    """Make an engine without warnings."""
    names = ("prefix_cells", "come_back", "warn")
    own = {name: fields.pop(name) for name in names if name in fields}
    own = {"warn": lambda line: None, **own}
    with ParallelEngine(
        model, n_parallel=n_parallel, n_cells=n_cells, settings=settings(**fields), **own
    ) as made:
        yield made


def n_used(made: ParallelEngine) -> int:
    """Cells in use: llama.cpp is asked."""
    return kv_evict.n_used(made._cells.context.ptr)


def drain(
    made: ParallelEngine, watch: Callable[[], None] = lambda: None
) -> dict[Hashable, list[Event]]:
    """Run until no row is left, with what holds after each step; the events of each row."""
    said: dict[Hashable, list[Event]] = {}
    while made.busy:
        for event in made.step():
            said.setdefault(event.key, []).append(event)
        assert made.cells_used() <= made.n_cells
        assert made.cells_used() == n_used(made) or not made._cells.countable
        watch()
    return said


def run(made: ParallelEngine, rows: list[Request]) -> list[list[Event]]:
    """Submit all rows, and return the events of each."""
    for i, row in enumerate(rows):
        made.submit(row, i)
    said = drain(made)
    return [said[i] for i in range(len(rows))]
