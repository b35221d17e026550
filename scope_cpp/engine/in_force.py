"""The settings in force: what the defaults and ``auto`` came to, for people and for JSON.

``flash_attn`` is ``"auto"`` only where llama.cpp chose, which does not tell.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from scope_cpp.engine.context import Context
from scope_cpp.engine.settings import Settings
from scope_cpp.native.library import llama_cpp
from scope_cpp.policies import DecodePolicy, PrefillPolicy


def in_force(
    settings: Settings,
    decode: DecodePolicy,
    prefill: PrefillPolicy,
    n_cells: int,
    context: Context,
) -> dict[str, Any]:
    """Return the settings of a context and its cache; llama.cpp is asked for its own.

    Parameters
    ----------
    settings
    decode, prefill
        The policies, their sizes resolved.
    n_cells
        Cells that may be used.
    context
    """
    return {
        "policy": decode.name,
        "options": asdict(decode),
        "prefill": prefill.name,
        "prefill_options": asdict(prefill),
        "granularity": settings.granularity,
        "budget": n_cells,
        "ctx_size": settings.ctx_size,
        "type_k": settings.type_k,
        "type_v": settings.type_v,
        "flash_attn": context.params.flash_attn,
        "n_threads": int(llama_cpp.llama_n_threads(context.ptr)),
        "n_threads_batch": int(llama_cpp.llama_n_threads_batch(context.ptr)),
        "n_batch": int(llama_cpp.llama_n_batch(context.ptr)),
        "n_ubatch": int(llama_cpp.llama_n_ubatch(context.ptr)),
    }
