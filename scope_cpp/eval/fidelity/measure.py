"""Fidelity on a model: prompts that fit, rows on one attention path, each reference once."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

from scope_cpp.engine import attention
from scope_cpp.engine.model import Model
from scope_cpp.engine.sampling import SamplingParams
from scope_cpp.engine.settings import Settings
from scope_cpp.errors import ScopeError, Warn
from scope_cpp.eval.config import model_identity
from scope_cpp.eval.fidelity.divergence import first_counted
from scope_cpp.eval.fidelity.reference import (
    About,
    Comparison,
    Recorder,
    Reference,
    about,
    check,
    file_name,
    load,
    save,
)
from scope_cpp.eval.rows import Row
from scope_cpp.eval.sample import Counts, Reading, Watch, read_item, write_output
from scope_cpp.eval.task import Item, Output

FOLDER = "reference"

_LEAST = 8  # tokens of a text: fewer say nothing


def settled(rows: Iterable[Row], model: Model) -> list[Row]:
    """Return the rows on the reference's attention path, the full cache on the other one.

    What a row gives up is measured then, and nothing that the arithmetic of another path rounds
    differently; the full cache on the other path tells how much that is, the floor.
    """
    return [_settled(row, model) for row in rows]


def _settled(row: Row, model: Model) -> Row:
    settings = attention.resolve(row.settings, model, bounded=True)
    if not row.is_full:
        return replace(row, settings=settings)
    if _path(settings) == _path(reference_settings(settings, model)):
        settings = replace(settings, flash_attn="auto" if settings.flash_attn == "off" else "off")
    return replace(row, settings=replace(settings, budget=None), beta=None)


def _path(settings: Settings) -> tuple[str, str, str]:
    return settings.flash_attn, settings.type_k, settings.type_v


def reference_settings(base: Settings, model: Model) -> Settings:
    """Return the settings that the reference is written with: the full cache, K and V in f16."""
    asked = Settings(
        policy="full",
        n_batch=base.n_batch,
        n_ubatch=base.n_ubatch,
        n_threads=base.n_threads,
        n_threads_batch=base.n_threads_batch,
        flash_attn=base.flash_attn,
        offload_kqv=base.offload_kqv,
    )
    return attention.resolve(asked, model, bounded=True)


def fitting(items: Sequence[Item], model: Model, template: bool | str, warn: Warn) -> list[Item]:
    """Return the items whose prompts fit, with texts that end at the last trained position.

    Raises
    ------
    ScopeError
        If none fits.
    UsageError
        As of `read_item`.
    """
    found, trained, too_long = [], model.n_ctx_train, []
    for item in items:
        n_prompt = len(read_item(model, item, template).prompt)
        room = trained - n_prompt
        if room < _LEAST:
            too_long.append(
                f"{item.id}: the prompt has {n_prompt:,} tokens, {model.path.name} was trained on "
                f"{trained:,}"
            )
            continue
        if room < item.n_predict:
            warn(
                f"{item.id}: the text ends after {room:,} tokens, at the last of the {trained:,} "
                f"positions that {model.path.name} was trained on"
            )
        found.append(replace(item, n_predict=min(item.n_predict, room)))
    if not found:
        raise ScopeError(f"{too_long[0]}: give shorter prompts (--data) or another model")
    for line in too_long:
        warn(f"{line}; skipped")
    return found


class FullCache:
    """The full cache's texts, each written once, and rows that are compared with them.

    Parameters
    ----------
    model
    folder
        Where the texts are kept.
    settings
        As of `reference_settings`.
    """

    def __init__(self, model: Model, folder: Path, settings: Settings) -> None:
        self._model, self._folder = model, folder
        self._row = Row("the full cache's text", settings)
        self._identity = model_identity(model.path)
        self._locks: dict[str, threading.Lock] = {}

    def check(self, item: Item, reading: Reading, sampling: SamplingParams) -> None:
        """Refuse a text of this item that is there already but belongs to something else.

        Raises
        ------
        ScopeError
            As of `load`.
        """
        check(self._path(item), self._about(item, reading, sampling))

    def compare(
        self,
        item: Item,
        reading: Reading,
        row: Row,
        sampling: SamplingParams,
        watch: Watch,
        warn: Warn,
    ) -> tuple[Output, Counts, int | None]:
        """Return a row's divergence from the full cache, as `write_output` returns an output.

        Raises
        ------
        ScopeError, Aborted
            As of `write_output`, and of `load`.
        """
        with self._lock(item.id):
            reference = self._reference(item, reading, sampling, watch, warn)
        forced = replace(reading, forced=tuple(map(int, reference.tokens)))
        comparison = Comparison(reference)
        output, counts, loop = write_output(
            self._model, forced, 0, row, sampling, watch, warn, comparison.see
        )
        room = int(counts["cells_capacity"]) - len(reading.prompt)
        if row.beta is not None:
            room = row.beside(len(reference))
        counted = 0 if row.is_full else first_counted(len(reference), room, counts["evicted"] > 0)
        return replace(output, divergence=comparison.divergence(counted)), counts, loop

    def _lock(self, name: str) -> AbstractContextManager[bool]:
        """Let others of the same item wait: they need the same text."""
        return self._locks.setdefault(name, threading.Lock())

    def _reference(
        self, item: Item, reading: Reading, sampling: SamplingParams, watch: Watch, warn: Warn
    ) -> Reference:
        path, wanted = self._path(item), self._about(item, reading, sampling)
        found = load(path, wanted)
        if found is not None:
            return found
        recorder = Recorder()
        plain = replace(reading, stop=())
        output, _, _ = write_output(
            self._model, plain, item.n_predict, self._row, sampling, watch, warn, recorder.see
        )
        made = recorder.reference(wanted, output.text)
        save(path, made)
        return made

    def _path(self, item: Item) -> Path:
        return self._folder / file_name(item.id)

    def _about(self, item: Item, reading: Reading, sampling: SamplingParams) -> About:
        return about(
            self._identity["name"],
            self._identity["sha256_of_ends"],
            reading.prompt,
            sampling.seed,
            temp=sampling.temp,
            tokens=item.n_predict,
            flash_attn=self._row.settings.flash_attn,
        )
