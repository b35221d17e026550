"""What a context takes beside the weights, and what it takes it for.

llama.cpp's buffers and those of ``patches/`` are asked for. Two things are worked out, because no
call tells them: what ggml's CPU code allocates beside its buffers, and what NumPy holds while cells
are chosen, so many bytes for each row (a cell in one layer and KV head). Both are tested against
the growth of a process.
"""

from __future__ import annotations

from dataclasses import dataclass

from scope_cpp.engine.cache.foresight import CHUNK, queries_kept
from scope_cpp.engine.context import COPIED_CELLS, Context
from scope_cpp.native import kv_evict
from scope_cpp.native.library import llama_cpp
from scope_cpp.policies.base import DecodePolicy, PrefillPolicy

# moves that are carried out at once; more go one call after the other
MOVES_AT_ONCE = 512

# bytes for each row: positions, scores, marks and copies of them, while cells are chosen
_ROW, _RANKED_ROW = 40, 80
# of these, scores and what was observed last, for each further query head that is scored
_HEAD = 16
# copies of a row of K or V, as 32-bit floats, where a policy looks at these
_COPIES = 5
# scores before and after a fold, and those that are shown to the policy
_SCORES = 3
# bytes for each pair of a head's rows, where the keys of all are compared
_PAIR = 8

# what ggml notes of llama.cpp's graphs, and of those that choose, for each node that there is room
# for, and how many these are: measured on models of 36 and of 272 tensors
_NODE, _CHOOSING_NODE = 3400, 2500
_LEAST_NODES, _NODES_PER_TENSOR = 1024, 8
# logits and candidates of a sampler, for each token of the vocabulary
_TOKEN = 24
# a thread's tiles of a matrix product
_TILES = 512 * 1024


@dataclass(frozen=True)
class Footprint:
    """Bytes beside the weights.

    Attributes
    ----------
    kv
        K and V of all cells that llama.cpp allocated.
    fixed
        Windows and recurrent states beside the cells; of a cache that can't be bounded all of it.
    compute
        llama.cpp's intermediate results, the logits, the CPU's working memory, samplers and graphs.
    queries
        Recorded queries, the sums of their weights, and those of the prompt that are asked again.
    selection
        Choosing what stays: attention and moves on llama.cpp's side, positions, scores and copies
        of them in NumPy.
    copies
        Copies of prompts that rest in main memory, as they can't rest in cells.
    device
        How many of all these lie in the memory of GPUs.
    """

    kv: int = 0
    fixed: int = 0
    compute: int = 0
    queries: int = 0
    selection: int = 0
    copies: int = 0
    device: int = 0

    @property
    def total(self) -> int:
        """All of them."""
        beside = self.fixed + self.compute + self.queries + self.selection
        return self.kv + beside + self.copies


@dataclass(frozen=True)
class Use:
    """Who chooses the cells of a context.

    Attributes
    ----------
    decode, prefill
        Policies, their sizes resolved or not.
    n_recorded
        Queries that are recorded of each sequence that is written.
    whole_cells
        Whether layers and heads choose together, from scores by query head.
    n_rows
        Sequences that are written at once.
    """

    decode: DecodePolicy
    prefill: PrefillPolicy
    n_recorded: int
    whole_cells: bool
    n_rows: int = 1

    @property
    def policies(self) -> tuple[DecodePolicy, PrefillPolicy]:
        """Both."""
        return self.decode, self.prefill

    def needs(self, context: Context) -> kv_evict.Needs:
        """What the native side will be asked at most, of this context."""
        ahead, unlike = self.decode.ahead, bool(self.decode.unlike)
        return kv_evict.Needs(
            n_scores=self.n_recorded if any(p.needs_scores for p in self.policies) else 0,
            by_head=self.whole_cells,
            dead=any(p.uneven for p in self.policies),
            n_queries=min(ahead, self.n_recorded),
            n_asked=queries_kept(context.ptr, ahead),
            n_move=0 if self.whole_cells else min(MOVES_AT_ONCE, context.n_cells),
            keys=bool(ahead) or unlike or any(p.needs_keys for p in self.policies),
            values=unlike or any(p.needs_values for p in self.policies),
            likeness=unlike,
        )


def measure(context: Context, use: Use | None, *, asked: bool = True) -> Footprint:
    """Return what a context takes; of a model without memory, what it would take.

    Parameters
    ----------
    context
        Its queries are recorded and its memory is reserved already, if it has a `use`.
    use
        ``None`` if nothing is ever evicted.
    asked
        Count the most queries of a prompt that may be asked again, too.
    """
    held = kv_evict.memory(context.ptr)
    bytes_of = {kind: host + device for kind, (host, device) in held.items()}
    queries, selection = bytes_of["queries"], bytes_of["scratch"]
    device = sum(device for _, device in held.values())
    if use is not None:
        selection += _selection_bytes(context, use)
        if context.params.n_seq_max > 1 and use.decode.ranks_prompt:
            n_copied = min(COPIED_CELLS, context.n_cells)
            selection += bytes_of["cells"] * n_copied // max(1, context.n_cells)
        asked_bytes = use.n_rows * _asked_bytes(context, use) if asked else 0
        queries += asked_bytes
        if held["cells"][1]:  # which a device has too
            queries, device = queries + asked_bytes, device + asked_bytes
    return Footprint(
        kv=bytes_of["cells"],
        fixed=bytes_of["beside"],
        compute=bytes_of["compute"] + bytes_of["output"] + _ggml_bytes(context),
        queries=queries,
        selection=selection,
        device=device,
    )


def _ggml_bytes(context: Context) -> int:
    """Bytes beside the buffers: ggml's notes of graphs, samplers, and the CPU's working memory.

    There the right side of a matrix product is converted to 16 bits, unless the left one has 32:
    the widest activations, and in plain attention the weights of all cells.
    """
    params, ptr = context.params, context.ptr
    notes = _NODE * _n_nodes(context) + _TOKEN * context.model.n_vocab * max(1, params.n_slots)
    widest = context.model.n_ff
    if params.flash_attn == "off" and params.type_v != llama_cpp.GGML_TYPE_F32:
        most_heads = int(kv_evict.own_heads(ptr)[:, 0].max(initial=0))
        widest = max(widest, most_heads * context.n_cells)
    n_threads = max(llama_cpp.llama_n_threads(ptr), llama_cpp.llama_n_threads_batch(ptr))
    return int(notes + 2 * llama_cpp.llama_n_ubatch(ptr) * widest + n_threads * _TILES)


def _n_nodes(context: Context) -> int:
    """Nodes of a graph that llama.cpp has room for."""
    header = context.model.header
    n_tensors = max(header.n_tensors, header.metadata.get("split.tensors.count") or 0)
    return int(max(_LEAST_NODES, _NODES_PER_TENSOR * n_tensors))


def _selection_bytes(context: Context, use: Use) -> int:
    """Bytes that NumPy takes at most to choose among all cells of a context."""
    ptr, n_cells = context.ptr, context.n_cells
    n_layer, n_head, n_head_kv = (
        kv_evict.n_layer(ptr),
        kv_evict.n_head(ptr),
        kv_evict.n_head_kv(ptr),
    )
    if not n_head_kv:
        return 0
    ranked = use.decode.ranks_prompt
    row = _RANKED_ROW if ranked else _ROW
    scored = n_head // n_head_kv if use.whole_cells else 1
    row += _SCORES * 4 * max(0, len(use.decode.row) - 1) * scored
    if use.whole_cells:
        row += _HEAD * scored
    work = 0
    if any(p.needs_keys for p in use.policies):
        row += 4 * _COPIES * kv_evict.head_size(ptr)
        work += _PAIR * n_cells**2
    if any(p.needs_values for p in use.policies):
        row += 4 * _COPIES * kv_evict.head_size(ptr, values=True)
    if use.decode.ahead:
        # queries of a chunk as they are read, and the products of a layer with a chunk of cells
        size = kv_evict.head_size(ptr)
        n_asked = queries_kept(ptr, use.decode.ahead)
        work += 4 * n_layer * n_head * size * use.n_recorded
        work += 4 * n_head * n_asked * (size + 3 * CHUNK)
    return n_layer * n_head_kv * n_cells * row + work + _CHOOSING_NODE * _n_nodes(context)


def _asked_bytes(context: Context, use: Use) -> int:
    """Bytes of the prompt's queries that are asked again, and of what they found."""
    ptr = context.ptr
    numbers = kv_evict.n_layer(ptr) * kv_evict.n_head(ptr) * queries_kept(ptr, use.decode.ahead)
    return numbers * (2 * kv_evict.head_size(ptr) + 4 * 2)
