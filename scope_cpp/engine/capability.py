"""Whether a model's KV cache can be bounded: asked of llama.cpp itself, without its memory.

A model loaded without allocation and a context on it go through all that decides: which memory
class the architecture has, and which of its layers call the hook when the graph is built.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from scope_cpp.engine.context import Context
from scope_cpp.engine.context_params import CELLS_MULTIPLE, ContextParams
from scope_cpp.engine.kv_types import kv_type
from scope_cpp.engine.model import Model
from scope_cpp.engine.settings import Settings
from scope_cpp.errors import ScopeError, UsageError
from scope_cpp.native import kv_evict


@dataclass(frozen=True)
class Verdict:
    """Answer of `probe`.

    Attributes
    ----------
    supported
        Whether cells can be evicted.
    reason
        Why not; empty if they can.
    generates
        Whether the model can generate at all, with the full cache if need be.
    memory
        What the model remembers by, in words.
    n_layer, n_head_kv
        Layers whose cells are evicted, and KV heads in each; 0 if unsupported.
    """

    supported: bool
    reason: str = ""
    generates: bool = True
    memory: str = "none"
    n_layer: int = 0
    n_head_kv: int = 0


def probe(
    path: str | Path, type_k: str = "f16", type_v: str = "f16", flash_attn: str = "auto"
) -> Verdict:
    """Ask whether the model's cache can be bounded with these KV types.

    Raises
    ------
    ScopeError
        If the file can't be loaded at all.
    """
    params = ContextParams(
        n_cells=CELLS_MULTIPLE,
        type_k=kv_type(type_k).ggml_type,
        type_v=kv_type(type_v).ggml_type,
        flash_attn=flash_attn,
    )
    with Model.load(path, no_alloc=True) as model:
        try:
            context = Context(model, params)
        except ScopeError as err:
            return Verdict(False, str(err), generates=False)
        with context:
            memory = _memory(context)
            try:
                kv_evict.init(context.ptr, 1)
            except kv_evict.NativeError as err:
                return Verdict(False, kv_evict.strerror(err.status), memory=memory)
            return Verdict(
                supported=True,
                memory=memory,
                n_layer=kv_evict.n_layer(context.ptr),
                n_head_kv=kv_evict.n_head_kv(context.ptr),
            )


def _memory(context: Context) -> str:
    """What a context remembers by, in words."""
    windows, states = kv_evict.beside(context.ptr)
    parts = ["attention to all tokens"] if kv_evict.n_layer(context.ptr) else []
    parts += ["sliding windows"] * windows + ["recurrent states"] * states
    parts = parts or ["attention of another kind"]
    return " and ".join(parts) if len(parts) < 3 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def refusal(path: str | Path, type_k: str, type_v: str, flash_attn: str) -> str:
    """Why a model's cache can't be bounded; empty if it can.

    Raises
    ------
    ScopeError
        If the model can't generate at all.
    """
    verdict = probe(path, type_k, type_v, flash_attn)
    if not verdict.generates:
        raise ScopeError(verdict.reason)
    return verdict.reason


def require(path: str | Path, arch: str, type_k: str, type_v: str, flash_attn: str) -> None:
    """Refuse a model whose cache can't be bounded, by name and with the reason.

    Raises
    ------
    UsageError
        If `probe` says no.
    """
    if reason := refusal(path, type_k, type_v, flash_attn):
        raise _refused(path, arch, reason)


def fall_back(
    settings: Settings, model: Model, reason: str, warn: Callable[[str], None]
) -> Settings:
    """Return what a model runs with whose cache can't be bounded: the full cache, said in a line.

    Parameters
    ----------
    reason
        See `refusal`; nothing is changed where it is empty.

    Raises
    ------
    UsageError
        If the user asked for what bounds it: a policy, its options or a budget.
    """
    if not reason or settings.policies()[0].name == "full":
        return settings
    budget = None if settings.budget == "auto" else settings.budget
    asked = settings.policy, budget, settings.options
    if any(asked) or settings.prefill != Settings.prefill:
        raise _refused(model.path, model.arch, reason)
    warn(_runs_full(model, reason))
    return replace(settings, policy="full", budget=None)


def tell_full(context: Context, settings: Settings, warn: Callable[[str], None]) -> None:
    """Say why a model has the full cache where nothing had to be bounded, and nothing can be.

    Whether a model has cells to choose from is known of its context; only if not, it is probed.
    """
    if settings.policies()[0].name == "full" or kv_evict.n_layer(context.ptr):
        return
    kinds = settings.type_k, settings.type_v, settings.flash_attn
    if reason := refusal(context.model.path, *kinds):
        warn(_runs_full(context.model, reason))


def _runs_full(model: Model, reason: str) -> str:
    return f"{model.path.name} ({model.arch}) runs with the full cache: {reason}"


def _refused(path: str | Path, arch: str, reason: str) -> UsageError:
    return UsageError(
        f"{Path(path).name} ({arch}) can't be run with a bounded cache: {reason}; "
        "--policy full runs it with the full cache"
    )
