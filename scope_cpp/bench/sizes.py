"""From a row to the pools of its policy."""

from __future__ import annotations

from typing import TYPE_CHECKING

from scope_cpp.bench.row import Compute, Row
from scope_cpp.engine.settings import Settings
from scope_cpp.errors import UsageError

if TYPE_CHECKING:
    from scope_cpp.engine.model import Model
    from scope_cpp.engine.sizes import Sizes


def settings_of(row: Row, compute: Compute) -> Settings:
    """Return the engine's settings of a bounded row, its budget in cells."""
    return Settings(
        policy=row.policy,
        prefill=row.prefill,
        granularity=row.granularity,
        options=row.options,
        budget=row.budget,
        type_k=compute.type_k,
        type_v=compute.type_v,
        n_batch=compute.n_batch,
        n_ubatch=compute.n_ubatch,
        n_threads=compute.n_threads,
        n_threads_batch=compute.n_threads_batch,
        flash_attn=row.flash,
    )


def sizes_of(row: Row, compute: Compute, model: Model) -> Sizes:
    """Return what the row's policies come to.

    With a budget, what `scope generate` would make of it. Else the prompt has the cells that its
    policy keeps without one, and the output `beta` cells, slack included.

    Raises
    ------
    UsageError
        If the cells do not suffice for the policies.
    """
    from scope_cpp.engine.sizes import Sizes, resolve  # with llama.cpp, which help does without

    settings = settings_of(row, compute)
    if row.budget is not None:
        return resolve(settings, model, row.n_prompt, row.n_predict)
    decode, prefill = settings.policies()
    try:
        prefill = prefill.resolve(None, row.n_prompt)
        kept = prefill.cells(row.n_prompt)
        decode = decode.resolve(kept + row.beta, kept, row.n_predict)
    except ValueError as err:
        raise UsageError(str(err)) from err
    capacity = min(kept + row.beta, decode.capacity(kept, row.n_predict))
    bounded = capacity < row.n_prompt + row.n_predict
    return Sizes(capacity, bounded, decode, prefill, decode.warnings() + prefill.warnings())
