"""What a context would take, before anything is allocated.

llama.cpp is asked: it makes the context of a model that was loaded without memory, with everything
that belongs to it, and measures the buffers in place of allocating them.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import fields, replace
from typing import TYPE_CHECKING

from scope_cpp.engine import attention
from scope_cpp.engine.cache.scorer import ring_size
from scope_cpp.engine.context import Context
from scope_cpp.engine.context_params import ContextParams, round_up
from scope_cpp.engine.footprint import Footprint, Use, measure
from scope_cpp.native import kv_evict

if TYPE_CHECKING:
    from scope_cpp.engine.model import Model
    from scope_cpp.engine.settings import Settings

# Cells up to which a context is made to be measured. From half of them on all that depends on their
# number grows in proportion to it.
_MOST_MEASURED = 2**18


def sequences(model: Model, n_parallel: int, n_resting: int) -> int:
    """Sequences of a context for so many rows, beside prompts that rest.

    One more copies cells, where rows have some in common.
    """
    return n_parallel + n_resting + (not model.has_fixed_state)


class Forecast:
    """Forecasts of one model's contexts; a context manager.

    Parameters
    ----------
    model
        Loaded with or without memory.
    """

    def __init__(self, model: Model) -> None:
        self.model = model
        self._twin: Model | None = model if model.no_alloc else None
        self._found: dict[tuple[ContextParams, Use | None], Footprint] = {}

    def __enter__(self) -> Forecast:
        return self

    def __exit__(self, *_: object) -> None:
        if self._twin is not None and self._twin is not self.model:
            self._twin.close()

    def of(self, params: ContextParams, use: Use | None) -> Footprint:
        """Return what a context would take.

        Parameters
        ----------
        params
            What it would be created with.
        use
            Who would choose its cells; ``None`` where nothing is evicted, or can be.

        Raises
        ------
        ScopeError
            If llama.cpp makes no such context.
        """
        if params.n_cells >= params.n_ubatch:  # a batch has no more tokens than there are cells
            n_cells = round_up(params.n_cells)
            params = replace(params, n_cells=n_cells)
        if params.n_cells > _MOST_MEASURED:
            return self._beyond(params, use)
        key = params, use
        if key not in self._found:
            self._found[key] = self._measure(*key)
        return self._found[key]

    def of_run(
        self,
        settings: Settings,
        n_cells: int,
        *,
        bounded: bool,
        n_recorded: int = 0,
        n_parallel: int = 1,
        n_resting: int = 0,
        n_beside: int = 0,
    ) -> Footprint:
        """Return what a context of the user's settings would take.

        Parameters
        ----------
        settings
            Policies, KV types, batches and attention.
        n_cells
            Cells in all.
        bounded
            Whether they are ever evicted.
        n_recorded
            Queries to record of each sequence that is written, beyond those of the policies.
        n_parallel, n_resting
            Sequences that are written at once, and others that lie in the cache.
        n_beside
            Copies of a text's windows and recurrent states that are kept, where the model has some.
        """
        alone = bounded and n_parallel == 1
        params = attention.resolve(settings, self.model, bounded=alone).context_params(n_cells)
        if n_parallel + n_resting > 1:
            params = replace(params, n_seq_max=sequences(self.model, n_parallel, n_resting))
        params = replace(params, n_slots=n_parallel)
        if not bounded:
            return self._with_copies(self.of(params, None), n_beside)
        decode, prefill = settings.policies()
        reads = prefill.needs_scores or decode.reads_prompt
        ring = max(n_recorded, ring_size(decode, prefill, reads, n_cells))
        use = Use(decode, prefill, ring, settings.granularity == "cell", n_parallel)
        return self._with_copies(self.of(params, use), n_beside)

    def _with_copies(self, found: Footprint, n_beside: int) -> Footprint:
        """Add copies of what lies beside the cells; a window has room for more than is copied."""
        if not self.model.has_beside:
            return found
        return replace(found, fixed=found.fixed * (1 + n_beside))

    def taken(
        self,
        settings: Settings,
        *,
        full: int | None = None,
        n_recorded: int = 0,
        n_parallel: int = 1,
        n_resting: int = 0,
        n_beside: int = 0,
    ) -> Callable[[int], int]:
        """Return what tells the bytes that so many cells take.

        Of the memory in which the cells lie: on a GPU, what is left in main memory is not counted.

        Parameters
        ----------
        settings, n_recorded, n_parallel, n_resting, n_beside
            See `of_run`.
        full
            Cells from which on nothing is evicted; ``None`` if there is no such number.
        """
        evicts = any(policy.name != "full" for policy in settings.policies())

        def taken(n_cells: int) -> int:
            bounded = evicts and (full is None or n_cells < full)
            found = self.of_run(
                settings,
                n_cells,
                bounded=bounded,
                n_recorded=n_recorded,
                n_parallel=n_parallel,
                n_resting=n_resting,
                n_beside=n_beside,
            )
            return self.where_cells_lie(found, settings)

        return taken

    def where_cells_lie(self, found: Footprint, settings: Settings) -> int:
        """Return the bytes of a footprint that lie on the device that has the cells."""
        on_gpu = settings.offload_kqv and self.model.offloaded and found.device > 0
        return found.device if on_gpu else found.total

    def _measure(self, params: ContextParams, use: Use | None) -> Footprint:
        if self._twin is None:
            self._twin = self.model.unallocated()
        with Context(self._twin, params) as context:
            if use is not None:
                # what can't be bounded is refused by name elsewhere
                with suppress(kv_evict.NativeError):
                    context.record_queries(use.n_recorded)
                    kv_evict.reserve(context.ptr, use.needs(context))
            return measure(context, use)

    def _beyond(self, params: ContextParams, use: Use | None) -> Footprint:
        half, whole = (
            self.of(replace(params, n_cells=n), use) for n in (_MOST_MEASURED // 2, _MOST_MEASURED)
        )
        share = params.n_cells / (_MOST_MEASURED // 2) - 1

        def at(name: str) -> int:
            low, high = getattr(half, name), getattr(whole, name)
            return int(low + (high - low) * share)

        return Footprint(*(at(field.name) for field in fields(Footprint)))
