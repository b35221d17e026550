"""What a model file is, what its KV cache takes, and whether it can be bounded.

No weights are read: llama.cpp loads the model without allocating anything.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scope_cpp.engine import budget as dial
from scope_cpp.engine.capability import Verdict, probe
from scope_cpp.engine.context_params import round_up
from scope_cpp.engine.footprint import Footprint
from scope_cpp.engine.forecast import Forecast
from scope_cpp.engine.kv_types import bytes_per_cell
from scope_cpp.engine.length import longer_than_trained
from scope_cpp.engine.memory import free_memory
from scope_cpp.engine.model import Model
from scope_cpp.engine.ranges import INT32_MAX
from scope_cpp.engine.settings import Settings
from scope_cpp.errors import Warn, ignore

# names here, and in `Footprint`
_PARTS_FULL = {"kv_bytes_full": "kv", "fixed_bytes_full": "fixed", "memory_bytes_full": "total"}
_PARTS_BUDGET = {
    "kv_bytes_budget": "kv",
    "fixed_bytes_budget": "fixed",
    "compute_bytes_budget": "compute",
    "query_bytes_budget": "queries",
    "selection_bytes_budget": "selection",
    "memory_bytes_budget": "total",
}


@dataclass(frozen=True)
class Inspection:
    """Answer of `examine`.

    Attributes
    ----------
    path, architecture, name, file_type
        As the file gives them; `file_type` is its quantization.
    size_bytes, n_params
        Bytes of the weights, and how many there are.
    n_layer, n_head, n_head_kv, head_dim_k, head_dim_v
        Shape; `n_head` of the layer with most, `n_head_kv` by layer, 0 for one without attention.
    n_ctx_train, n_vocab, chat_template
        Training length in tokens, size of the vocabulary, and whether there is a chat template.
    memory
        What the model remembers by, in words.
    supported, reason
        Whether the cache can be bounded, and if not, why.
    bounded_layers
        Indices of the layers whose cells can be evicted.
    type_k, type_v, bytes_per_cell
        KV types, and the bytes of one cell in these layers of the bounded cache. ``None`` here and
        in what follows where the cache can't be bounded.
    n_positions
        Most tokens that a text may have, where the model has learned its positions; ``None``: no
        end.
    ctx_size, kv_bytes_full, fixed_bytes_full
        Full length in tokens, at most `n_positions`, and the bytes that a full cache of it
        allocates: for its cells, and for windows and recurrent states, which do not grow.
    memory_bytes_full
        Bytes of all that such a cache and what belongs to it take beside the weights.
    budget_cells, kv_bytes_budget, fixed_bytes_budget
        Cells of the budget for that length, and the bytes that are allocated likewise.
    compute_bytes_budget, query_bytes_budget, selection_bytes_budget, memory_bytes_budget
        What belongs to these cells under the default policy, see `Footprint`, and all together.
    """

    path: str
    architecture: str
    name: str | None
    file_type: str
    size_bytes: int
    n_params: int
    n_layer: int
    n_head: int
    n_head_kv: tuple[int, ...]
    head_dim_k: int | None
    head_dim_v: int | None
    n_ctx_train: int
    n_positions: int | None
    n_vocab: int
    chat_template: bool
    memory: str
    supported: bool
    reason: str
    bounded_layers: tuple[int, ...]
    type_k: str
    type_v: str
    bytes_per_cell: int | None
    ctx_size: int
    kv_bytes_full: int | None
    fixed_bytes_full: int | None
    memory_bytes_full: int | None
    budget_cells: int | None
    kv_bytes_budget: int | None
    fixed_bytes_budget: int | None
    compute_bytes_budget: int | None
    query_bytes_budget: int | None
    selection_bytes_budget: int | None
    memory_bytes_budget: int | None


def examine(
    path: str | Path,
    *,
    type_k: str = "f16",
    type_v: str = "f16",
    ctx_size: int | None = None,
    budget: str | int | None = None,
    flash_attn: str = "auto",
    warn: Warn = ignore,
) -> Inspection:
    """Inspect a model file.

    Parameters
    ----------
    path
        GGUF file.
    type_k, type_v, flash_attn
        What the cache would be created with.
    ctx_size
        Full length in tokens; ``None``: the training length. Beyond the end of a model that has
        learned its positions, it is that end.
    budget
        See `scope_cpp.engine.budget`; ``None``: 1024 cells.
    warn
        Is told of a full length that the model was not trained on.

    Raises
    ------
    UsageError
        If the file is no model, or a type or the budget is none.
    ScopeError
        If llama.cpp can't load the model.
    """
    settings = Settings(type_k=type_k, type_v=type_v, flash_attn=flash_attn, ctx_size=ctx_size)
    parsed = dial.parse_budget(budget)
    with Model.load(path, no_alloc=True) as model:
        verdict = probe(path, type_k, type_v, flash_attn)
        if ctx_size is not None and ctx_size > model.n_ctx_train:
            warn(longer_than_trained(model, ctx_size))
        # a longer text than the model can have takes no memory
        n_ctx = min(ctx_size or model.n_ctx_train, model.n_positions or INT32_MAX)
        per_cell = bytes_per_cell(model, type_k, type_v) if verdict.supported else None
        n_cells: int | None = None
        taken: dict[str, Any] = dict.fromkeys((*_PARTS_FULL, *_PARTS_BUDGET))
        if per_cell is not None:
            n_cells, full, bounded = _forecast(model, settings, parsed, n_ctx)
            # the plain attention has a V as wide as the widest layer's in all layers
            per_cell = bounded.kv // round_up(n_cells)
            taken |= {name: getattr(full, part) for name, part in _PARTS_FULL.items()}
            taken |= {name: getattr(bounded, part) for name, part in _PARTS_BUDGET.items()}
        return Inspection(
            **_facts(model),
            memory=verdict.memory,
            supported=verdict.supported,
            reason=verdict.reason,
            bounded_layers=_bounded_layers(model, verdict),
            type_k=type_k,
            type_v=type_v,
            bytes_per_cell=per_cell,
            ctx_size=n_ctx,
            budget_cells=n_cells,
            **taken,
        )


def describe(found: Inspection) -> list[tuple[str, str]]:
    """Return an inspection as names and values for people."""
    rows = [
        ("file", found.path),
        ("name", found.name or "-"),
        ("architecture", found.architecture),
        ("quantization", found.file_type),
        ("size", f"{dial.format_bytes(found.size_bytes)}, {found.n_params:,} parameters"),
        ("layers", str(found.n_layer)),
        ("heads", f"{found.n_head}, KV heads {_spans(found.n_head_kv)}"),
        ("head size", _pair(found.head_dim_k, found.head_dim_v)),
        ("training length", f"{found.n_ctx_train} tokens{_end(found)}"),
        ("vocabulary", f"{found.n_vocab} tokens"),
        ("chat template", "yes" if found.chat_template else "no"),
        ("memory", found.memory),
        ("bounded cache", _verdict(found)),
    ]
    return rows + _memory(found)


def _facts(model: Model) -> dict[str, Any]:
    heads = model.header.get("attention.head_count")
    has_heads = any(model.n_head_kv_by_layer)
    return {
        "path": str(model.path),
        "architecture": model.arch,
        "name": model.metadata("general.name"),
        "file_type": model.file_type,
        "size_bytes": model.size_bytes,
        "n_params": model.n_params,
        "n_layer": model.n_layer,
        "n_head": max(heads) if isinstance(heads, list) else model.n_head,
        "n_head_kv": model.n_head_kv_by_layer,
        "head_dim_k": model.head_dim_k if has_heads else None,
        "head_dim_v": model.head_dim_v if has_heads else None,
        "n_ctx_train": model.n_ctx_train,
        "n_positions": model.n_positions,
        "n_vocab": model.n_vocab,
        "chat_template": model.chat_template is not None,
    }


def _bounded_layers(model: Model, verdict: Verdict) -> tuple[int, ...]:
    if not verdict.supported:
        return ()
    return tuple(layer.layer for layer in model.cell_layers)


def _forecast(
    model: Model, settings: Settings, budget: dial.Budget, n_ctx: int
) -> tuple[int, Footprint, Footprint]:
    """Cells of the budget; what the full length takes, and what they do."""
    with Forecast(model) as forecast:
        n_cells = dial.cells(
            budget,
            n_prompt=0,
            n_predict=n_ctx,
            taken=forecast.taken(settings, full=n_ctx),
            free_memory=free_memory(gpu=True),
        )
        full = forecast.of_run(settings, n_ctx, bounded=False)
        return n_cells, full, forecast.of_run(settings, n_cells, bounded=n_cells < n_ctx)


def _end(found: Inspection) -> str:
    if found.n_positions is None:
        return ""
    return "; no text can be longer, the model has learned no positions beyond them"


def _verdict(found: Inspection) -> str:
    if not found.supported:
        return f"no: {found.reason}"
    n = len(found.bounded_layers)
    if n == found.n_layer:
        return "yes, all layers"
    return f"yes, {n} of {found.n_layer} layers; what the others remember does not grow"


def _memory(found: Inspection) -> list[tuple[str, str]]:
    if found.bytes_per_cell is None or found.kv_bytes_full is None:
        return []
    size = dial.format_bytes
    parts = {
        "KV": found.kv_bytes_budget,
        "windows and states": found.fixed_bytes_budget,
        "computing": found.compute_bytes_budget,
        "queries": found.query_bytes_budget,
        "choosing": found.selection_bytes_budget,
    }
    told = ", ".join(f"{name} {size(n)}" for name, n in parts.items() if n)
    fixed = f"windows and states {size(n)}, " if (n := found.fixed_bytes_full) else ""
    full = f"KV {size(found.kv_bytes_full)}, {fixed}computing {size(_computing(found))}"
    return [
        ("KV per cell", f"{size(found.bytes_per_cell)} (K {found.type_k}, V {found.type_v})"),
        ("full cache", f"{size(found.memory_bytes_full or 0)} for {found.ctx_size} tokens"),
        ("", full),
        ("in budget", f"{size(found.memory_bytes_budget or 0)} for {found.budget_cells} cells"),
        ("", told),
    ]


def _computing(found: Inspection) -> int:
    kv, fixed = found.kv_bytes_full or 0, found.fixed_bytes_full or 0
    return (found.memory_bytes_full or 0) - kv - fixed


def _spans(n_head_kv: Sequence[int]) -> str:
    """One number where all layers agree, else the number of each layer."""
    if len(set(n_head_kv)) == 1:
        return str(n_head_kv[0])
    return "by layer " + " ".join(map(str, n_head_kv))


def _pair(k: int | None, v: int | None) -> str:
    if k is None:
        return "-"
    return str(k) if k == v else f"K {k}, V {v}"
