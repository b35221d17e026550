"""Whether a model's KV cache can be bounded: asked of llama.cpp itself, without its memory.

A model loaded without allocation and a context on it go through all that decides: which memory
class the architecture has, and which of its layers call the hook when the graph is built.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from scope_cpp.engine.context import Context
from scope_cpp.engine.context_params import CELLS_MULTIPLE, ContextParams
from scope_cpp.engine.kv_types import kv_type
from scope_cpp.engine.model import Model
from scope_cpp.errors import ScopeError
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
    n_layer, n_head_kv
        Layers with a KV cache and KV heads in each; 0 if unsupported.
    """

    supported: bool
    reason: str = ""
    generates: bool = True
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
            with Context(model, params) as context:
                kv_evict.init(context.ptr, 1)
                return Verdict(
                    supported=True,
                    n_layer=kv_evict.n_layer(context.ptr),
                    n_head_kv=kv_evict.n_head_kv(context.ptr),
                )
        except kv_evict.NativeError as err:
            return Verdict(False, kv_evict.strerror(err.status))
        except ScopeError as err:
            return Verdict(False, str(err), generates=False)


def require(path: str | Path, arch: str, type_k: str, type_v: str, flash_attn: str) -> None:
    """Refuse a model whose cache can't be bounded, by name and with the reason.

    Raises
    ------
    ScopeError
        If `probe` says no.
    """
    verdict = probe(path, type_k, type_v, flash_attn)
    if not verdict.generates:
        raise ScopeError(verdict.reason)
    if not verdict.supported:
        raise ScopeError(
            f"{Path(path).name} ({arch}) can't be run with a bounded cache: {verdict.reason}; "
            "--policy full runs it with the full cache"
        )
