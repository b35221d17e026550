"""Typed bindings of ``llama-kv-evict.h``: each stub under the prototype it calls.

Status codes become `NativeError`; arrays are NumPy, C-contiguous, over (layer, KV head, cell).
"""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scope_cpp.errors import ScopeError
from scope_cpp.native.finite import require_finite
from scope_cpp.native.library import library_path, llama_cpp
from scope_cpp.native.lifetime import Pointer

ABI = 9
# STATE_FORM of llama-kv-evict-state.cpp: what a saved sequence looks like
STATE_FORM = 4
# enum llama_kv_evict_beside
WINDOWS, STATES = 1, 2
SHARED = -23
QUERIES = -22
INT32_MIN = -(2**31)
NO_STACK = INT32_MIN + 1

Int32 = NDArray[np.int32]

_lib = llama_cpp.llama_cpp._lib


class _Vocab(ctypes.c_void_p):
    """An address, never NULL, which the native side would follow."""

    @classmethod
    def from_param(cls, value: Any) -> Any:
        """Refuse what is no address."""
        if not value:
            raise TypeError("a native call needs a context or a vocabulary, not NULL")
        return ctypes.c_void_p.from_param(value)


class _Context(_Vocab):
    """As a `_Vocab`; calls for one context come after one another."""


_ctx, _vocab = _Context, _Vocab
_i32 = ctypes.c_int32
_ptr = ctypes.c_void_p
_size = ctypes.c_size_t


# enum llama_kv_evict_memory_kind, in its order
MEMORY_KINDS = ("cells", "beside", "compute", "output", "queries", "scratch")


class Needs(ctypes.Structure):
    """What a cache will ask of the native side at most; see `reserve`.

    Attributes
    ----------
    n_scores, by_head
        Queries that `scores` sums over, and whether by query head.
    dead
        Whether rows are hidden (`set_dead`).
    n_queries
        Queries that `queries` reads.
    n_asked
        Queries that `ahead_set` keeps.
    n_move
        Moves of a head in one `apply`.
    keys, values
        Whether `rows` reads K, and V.
    likeness
        Whether `likeness` is asked.
    """

    _fields_ = [
        ("n_scores", _i32),
        ("by_head", ctypes.c_bool),
        ("dead", ctypes.c_bool),
        ("n_queries", _i32),
        ("n_asked", _i32),
        ("n_move", _i32),
        ("keys", ctypes.c_bool),
        ("values", ctypes.c_bool),
        ("likeness", ctypes.c_bool),
    ]


class NativeError(ScopeError):
    """A native call refused: the reason in words and its status code."""

    def __init__(self, what: str, status: int) -> None:
        super().__init__(f"{what}: {strerror(status)}")
        self.status = status


def _bind(name: str, restype: Any, *argtypes: Any) -> Any:
    try:
        fn = getattr(_lib, f"llama_kv_evict_{name}")
    except AttributeError as err:
        raise ScopeError(
            f"the libllama in {library_path()} has no eviction hooks: "
            "unset LLAMA_CPP_LIB_PATH or reinstall scope-cpp"
        ) from err
    fn.restype, fn.argtypes = restype, list(argtypes)
    return _in_turn(fn) if argtypes[:1] == (_ctx,) else fn


def _in_turn(fn: Any) -> Any:
    """Let calls of several threads for one context come after one another."""

    def call(ctx: Any, *arguments: Any) -> Any:
        if isinstance(ctx, Pointer):
            with ctx.lock:
                return fn(ctx, *arguments)
        return fn(ctx, *arguments)

    return call


_abi = _bind("abi", _i32)
if _abi() != ABI:
    raise ScopeError(
        f"libllama in {library_path()} has eviction ABI {_abi()}, "
        f"this scope-cpp needs {ABI}: reinstall scope-cpp"
    )

_strerror = _bind("strerror", ctypes.c_char_p, _i32)
_init = _bind("init", _i32, _ctx, _i32, _i32)
_take_slot = _bind("bind", _i32, _ctx, _i32)
_release = _bind("release", None, _ctx, _i32)
_memory = _bind("memory", None, _ctx, _ptr)
_reserve = _bind("reserve", _i32, _ctx, _ptr)
_n_layer = _bind("n_layer", _i32, _ctx)
_layer_ids = _bind("layer_ids", _i32, _ctx, _ptr)
_n_head = _bind("n_head", _i32, _ctx)
_n_head_kv = _bind("n_head_kv", _i32, _ctx)
_own_heads = _bind("own_heads", _i32, _ctx, _ptr)
_head_size = _bind("head_size", _i32, _ctx, ctypes.c_bool)
_n_cells = _bind("n_cells", _i32, _ctx)
_n_used = _bind("n_used", _i32, _ctx)
_n_bytes = _bind("n_bytes", _size, _ctx)
_cells = _bind("cells", _i32, _ctx, _i32, _ptr, _ptr, _ptr, _i32)
_n_queries = _bind("n_queries", _i32, _ctx, _i32)
_scores = _bind("scores", _i32, _ctx, _i32, _i32, _ptr, _i32, ctypes.c_bool, _ptr)
_queries = _bind("queries", _i32, _ctx, _i32, _i32, _i32, _ptr)
_rows = _bind("rows", _i32, _ctx, _i32, ctypes.c_bool, _ptr, _i32, _ptr)
_zero_free = _bind("zero_free", _i32, _ctx)
_likeness = _bind("likeness", _i32, _ctx, _i32, _ptr, _i32, _i32, _ptr, ctypes.c_float, _ptr)
_ahead_set = _bind("ahead_set", _i32, _ctx, _i32, _i32, _ptr, _ptr, _ptr)
_ahead_get = _bind("ahead_get", _i32, _ctx, _i32, _ptr, _ptr)
_ahead_prompt = _bind("ahead_prompt", _i32, _ctx, _i32, _ptr, _i32, _ptr, _ptr)
_ahead = _bind(
    "ahead", _i32, _ctx, _i32, _ptr, *[_i32] * 2, _ptr, ctypes.c_bool, ctypes.c_float, _ptr, _ptr
)
_apply = _bind("apply", _i32, _ctx, _i32, _ptr, _ptr, _i32, _ptr, _i32)
_set_dead = _bind("set_dead", _i32, _ctx, _i32, _ptr, _i32, _ptr)
_get_dead = _bind("get_dead", _i32, _ctx, _i32, _ptr, _i32, _ptr)
_state_size = _bind("state_size", _size, _ctx, _i32)
_state_get = _bind("state_get", _i32, _ctx, _i32, _ptr, _size)
_state_set = _bind("state_set", _i32, _ctx, _i32, _ptr, _size)
_forget = _bind("forget", None, _ctx, _i32)
_beside = _bind("beside", _i32, _ctx)
_make_bounded = _bind("make_bounded", None, ctypes.c_bool)
_can_end = _bind("can_end", ctypes.c_bool, _ctx, _i32, _i32)
_abort_on = _bind("abort_on", None, _ctx, _ptr)
_tokenize = _bind(
    "tokenize", _i32, _vocab, ctypes.c_char_p, _i32, _ptr, _i32, ctypes.c_bool, ctypes.c_bool
)


def _check(what: str, status: int) -> int:
    if status < 0:
        raise NativeError(what, status)
    return status


def _address(array: NDArray[Any]) -> int:
    if not array.flags.c_contiguous or array.itemsize not in (1, 2, 4):
        raise ValueError("the array is not C-contiguous, or of more than 32 bits")
    return array.ctypes.data


# const char * llama_kv_evict_strerror(int32_t status);
def strerror(status: int) -> str:
    """Reason of a status code, in words."""
    return str(_strerror(status).decode())


# int32_t llama_kv_evict_init(struct llama_context * ctx, int32_t n_window, int32_t n_slots);
def init(ctx: Any, n_window: int, n_slots: int = 0) -> None:
    """Record the last `n_window` queries of each sequence that has a slot; 0 stops and frees.

    `n_slots` sequences can have one at the same time, 0: all of the context.
    """
    _check("this context can't be bounded", _init(ctx, n_window, n_slots))


# void llama_kv_evict_memory(const struct llama_context * ctx, size_t * out);
def memory(ctx: Any) -> dict[str, tuple[int, int]]:
    """Bytes that a context holds beside the weights: of each kind, in main memory and on devices.

    ``cells`` are those that are chosen, ``beside`` windows and recurrent states. Of a model that
    was loaded without memory: what it would hold.
    """
    out = (_size * (2 * len(MEMORY_KINDS)))()
    _memory(ctx, out)
    return {kind: (out[2 * i], out[2 * i + 1]) for i, kind in enumerate(MEMORY_KINDS)}


# int32_t llama_kv_evict_reserve(struct llama_context * ctx,
#         const struct llama_kv_evict_needs * needs);
def reserve(ctx: Any, needs: Needs) -> None:
    """Allocate what these needs take in a full cache: it does not grow any more."""
    _check("no memory to choose cells in", _reserve(ctx, ctypes.byref(needs)))


# int32_t llama_kv_evict_bind(struct llama_context * ctx, llama_seq_id seq);
def bind(ctx: Any, seq: int) -> None:
    """Give a sequence a slot, if it has none: its queries are recorded from now on."""
    _check(f"sequence {seq} can't be bounded", _take_slot(ctx, seq))


# void llama_kv_evict_release(struct llama_context * ctx, llama_seq_id seq);
def release(ctx: Any, seq: int) -> None:
    """Take a sequence's slot, and forget what was recorded of it."""
    _release(ctx, seq)


# int32_t llama_kv_evict_n_layer(const struct llama_context * ctx);
def n_layer(ctx: Any) -> int:
    """Layers whose cells are chosen: those that attend to everything and have a KV cache."""
    return int(_n_layer(ctx))


# int32_t llama_kv_evict_layer_ids(const struct llama_context * ctx, int32_t * out);
def layer_ids(ctx: Any) -> Int32:
    """Which layers of the model these are: int32 (layer,)."""
    ids = np.empty(n_layer(ctx), np.int32)
    _layer_ids(ctx, _address(ids))
    return ids


# int32_t llama_kv_evict_n_head(const struct llama_context * ctx);
def n_head(ctx: Any) -> int:
    """Query heads of a layer: as many as arrays have, where layers have different numbers."""
    return int(_n_head(ctx))


# int32_t llama_kv_evict_n_head_kv(const struct llama_context * ctx);
def n_head_kv(ctx: Any) -> int:
    """KV heads of a layer, likewise.

    A layer with fewer has doubles in arrays: what is read of KV head i is that of its head i modulo
    its own number, and what is done to both must be the same.
    """
    return int(_n_head_kv(ctx))


# int32_t llama_kv_evict_own_heads(const struct llama_context * ctx, int32_t * out);
def own_heads(ctx: Any) -> Int32:
    """Query heads and KV heads that each layer has of its own: int32 (layer, 2)."""
    heads = np.empty((n_layer(ctx), 2), np.int32)
    _own_heads(ctx, _address(heads))
    return heads


# int32_t llama_kv_evict_n_cells(const struct llama_context * ctx);
def n_cells(ctx: Any) -> int:
    """Cells that llama.cpp has allocated."""
    return int(_n_cells(ctx))


# int32_t llama_kv_evict_n_used(const struct llama_context * ctx);
def n_used(ctx: Any) -> int:
    """Cells in use, over all sequences."""
    return int(_n_used(ctx))


# size_t llama_kv_evict_n_bytes(const struct llama_context * ctx);
def n_bytes(ctx: Any) -> int:
    """Bytes of the buffers of K and V, windows and recurrent states included."""
    return int(_n_bytes(ctx))


# int32_t llama_kv_evict_head_size(const struct llama_context * ctx, bool values);
def head_size(ctx: Any, *, values: bool = False) -> int:
    """Numbers in a row of K, or of V."""
    return int(_head_size(ctx, values))


# int32_t llama_kv_evict_cells(const struct llama_context * ctx, llama_seq_id seq,
#         llama_pos * pos, int32_t * cells, int8_t * shared, int32_t n_max);
def cells(ctx: Any, seq: int) -> tuple[Int32, Int32, NDArray[np.bool_]]:
    """Positions, cells and whether each is shared with another sequence, by position."""
    n = int(_n_cells(ctx))
    pos, ids, shared = np.empty(n, np.int32), np.empty(n, np.int32), np.empty(n, np.int8)
    used = _cells(ctx, seq, _address(pos), _address(ids), _address(shared), n)
    return pos[:used], ids[:used], shared[:used].astype(np.bool_)


# int32_t llama_kv_evict_n_queries(const struct llama_context * ctx, llama_seq_id seq);
def n_queries(ctx: Any, seq: int) -> int:
    """Most recent queries of the sequence that are recorded without a gap."""
    return _check("no queries", _n_queries(ctx, seq))


# int32_t llama_kv_evict_scores(struct llama_context * ctx, llama_seq_id seq, int32_t n_query,
#         const int32_t * cells, int32_t n_cells, bool by_head, float * out);
def scores(
    ctx: Any, seq: int, n_query: int, ids: Int32, *, by_head: bool = False
) -> NDArray[np.float32]:
    """Softmax weights of the last `n_query` queries, summed: float32 (layer, KV head, cell).

    With `by_head` for each query head: (layer, query head, cell).
    """
    out = np.empty((n_layer(ctx), n_head(ctx) if by_head else n_head_kv(ctx), ids.size), np.float32)
    status = _scores(ctx, seq, n_query, _address(ids), ids.size, by_head, _address(out))
    _check("attention scores", status)
    return require_finite(out, "attention weights", ctx)


# int32_t llama_kv_evict_queries(struct llama_context * ctx, llama_seq_id seq, int32_t n_query,
#         llama_pos pos, float * out);
def queries(ctx: Any, seq: int, n_query: int, pos: int) -> NDArray[np.float32]:
    """Read recorded queries, as they would be at another position.

    Parameters
    ----------
    n_query
        How many of the last ones; at most `n_queries`.
    pos
        Position that RoPE turns them to.

    Returns
    -------
    float32 (layer, query head, n_query, head size), times the scale of the attention: products
    with the rows of K are logits.
    """
    out = np.empty((n_layer(ctx), n_head(ctx), n_query, head_size(ctx)), np.float32)
    _check("queries can't be read", _queries(ctx, seq, n_query, pos, _address(out)))
    return require_finite(out, "queries", ctx)


# int32_t llama_kv_evict_rows(struct llama_context * ctx, llama_seq_id seq, bool values,
#         const int32_t * cells, int32_t n_cells, float * out);
def rows(ctx: Any, seq: int, ids: Int32, *, values: bool = False) -> NDArray[np.float32]:
    """K, or V, in cells of the sequence: float32 (layer, KV head, cell, head size).

    K is as it lies in the cache, that is after RoPE; both after the rotation of quantized caches,
    which leaves lengths and angles as they are.
    """
    shape = n_layer(ctx), n_head_kv(ctx), ids.size, head_size(ctx, values=values)
    out = np.empty(shape, np.float32)
    _check("rows of the cache", _rows(ctx, seq, values, _address(ids), ids.size, _address(out)))
    return require_finite(out, "values" if values else "keys", ctx)


# int32_t llama_kv_evict_zero_free(struct llama_context * ctx);
def zero_free(ctx: Any) -> None:
    """Set what free cells, windows and recurrent states hold to 0, for it might be NaN.

    Attention gives such cells a weight of 0, and a new sequence begins with such a state times 0;
    but 0 times NaN is NaN.
    """
    _check("free cells", _zero_free(ctx))


# int32_t llama_kv_evict_likeness(struct llama_context * ctx, llama_seq_id seq,
#         const int32_t * cells, int32_t n_cells, int32_t n_new, float value_weight, float * out);
def likeness(
    ctx: Any,
    seq: int,
    ids: Int32,
    n_new: int,
    *,
    value_weight: float,
    layers: NDArray[np.bool_] | None = None,
) -> NDArray[np.float32]:
    """How alike the newest cells are to the one before them that they are most alike to.

    Parameters
    ----------
    ids
        Cells of the sequence, in the order of their tokens.
    n_new
        How many of the last ones are asked about.
    value_weight
        Weight of the V rows' cosine beside the K rows'.
    layers
        bool (layer,): those to look at; ``None``: all.

    Returns
    -------
    float32 (layer, KV head, n_new): -1 to 1, -1 where there is none before, and in layers that
    are not asked about. Rows that are dead are not looked at.
    """
    if layers is not None and layers.shape != (n_layer(ctx),):
        raise ValueError(f"layers {layers.shape} must be {(n_layer(ctx),)}")
    wanted = None if layers is None else _address(layers)
    out = np.empty((n_layer(ctx), n_head_kv(ctx), n_new), np.float32)
    status = _likeness(
        ctx, seq, _address(ids), ids.size, n_new, wanted, value_weight, _address(out)
    )
    _check("likeness of rows", status)
    return require_finite(out, "cosines of rows", ctx)


# int32_t llama_kv_evict_ahead_set(struct llama_context * ctx, llama_seq_id seq, int32_t n_query,
#         const uint16_t * queries, const float * prompt, const float * output);
def ahead_set(
    ctx: Any,
    seq: int,
    queries: NDArray[np.float16],
    prompt: NDArray[np.float32],
    output: NDArray[np.float32],
) -> None:
    """Keep queries beside the cells, to be asked again about new ones (`ahead`); without any: none.

    Parameters
    ----------
    queries
        float16 (layer, query head, query, head size), as `queries` returns them.
    prompt, output
        float32 (layer, query head, query): logarithms of the sums of exponentials over the cells of
        the prompt, and of the output so far; -inf for none.
    """
    shape = n_layer(ctx), n_head(ctx), queries.shape[2]
    if not prompt.shape == output.shape == queries.shape[:3] == shape:
        raise ValueError(f"queries {queries.shape[:3]} must be {shape}, and their logarithms")
    if queries.shape[2] and queries.shape[3] != head_size(ctx):
        raise ValueError(f"queries have {queries.shape[3]} numbers, not {head_size(ctx)}")
    addresses = _address(queries), _address(prompt), _address(output)
    _check("queries that are asked again", _ahead_set(ctx, seq, queries.shape[2], *addresses))


# int32_t llama_kv_evict_ahead_get(struct llama_context * ctx, llama_seq_id seq,
#         float * prompt, float * output);
def ahead_get(ctx: Any, seq: int, n_query: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the logarithms of `ahead_set`, of its `n_query` queries, as they are by now."""
    shape = n_layer(ctx), n_head(ctx), n_query
    prompt, output = np.empty(shape, np.float32), np.empty(shape, np.float32)
    status = _ahead_get(ctx, seq, _address(prompt), _address(output))
    _check("queries that are asked again", status)
    return prompt, output


# int32_t llama_kv_evict_ahead_prompt(struct llama_context * ctx, llama_seq_id seq,
#         const int32_t * cells, int32_t n_cells, const int8_t * others, const int8_t * layers);
def ahead_prompt(
    ctx: Any, seq: int, ids: Int32, others: NDArray[np.bool_], layers: NDArray[np.bool_]
) -> None:
    """Let the queries of `ahead_set` go through cells of the prompt.

    `others`, bool (layer, KV head, cell), are left out; `layers`, bool (layer,), are gone through.
    """
    shape = n_layer(ctx), n_head_kv(ctx), ids.size
    if others.shape != shape or layers.shape != shape[:1]:
        raise ValueError(f"others {others.shape} must be {shape}, layers {layers.shape}")
    addresses = _address(others), _address(layers)
    _check("cells of the prompt", _ahead_prompt(ctx, seq, _address(ids), ids.size, *addresses))


# int32_t llama_kv_evict_ahead(struct llama_context * ctx, llama_seq_id seq,
#         const int32_t * cells, int32_t n_cells, int32_t n_new, const int8_t * layers,
#         bool by_head, float value_weight, float * weights, float * like);
def ahead(
    ctx: Any,
    seq: int,
    ids: Int32,
    n_new: int,
    layers: NDArray[np.bool_],
    *,
    weighs: bool,
    by_head: bool,
    value_weight: float | None,
) -> tuple[NDArray[np.float32] | None, NDArray[np.float32] | None]:
    """Weigh new cells where they lie, and compare them with those before them.

    Parameters
    ----------
    ids, n_new, layers
        As for `likeness`; 64 new cells at most.
    weighs
        Whether the queries of `ahead_set` weigh them, which then have gone through these cells.
    by_head
        For each query head, not the most of a KV head's.
    value_weight
        As for `likeness`; ``None``: they are not compared.

    Returns
    -------
    weights
        float32 (layer, KV head or query head, n_new), as `scores.foresight` defines them; 0 in
        other layers.
    likeness
        float32 (layer, KV head, n_new), as `likeness` returns it.
    """
    if layers.shape != (n_layer(ctx),):
        raise ValueError(f"layers {layers.shape} must be {(n_layer(ctx),)}")
    n_out = n_head(ctx) if by_head else n_head_kv(ctx)
    weights = np.empty((n_layer(ctx), n_out, n_new), np.float32) if weighs else None
    like = None
    if value_weight is not None:
        like = np.empty((n_layer(ctx), n_head_kv(ctx), n_new), np.float32)
    results = [None if array is None else _address(array) for array in (weights, like)]
    numbers = by_head, value_weight or 0.0
    status = _ahead(ctx, seq, _address(ids), ids.size, n_new, _address(layers), *numbers, *results)
    _check("new cells can't be weighed", status)
    for array in (weights, like):
        if array is not None:
            require_finite(array, "keys and values", ctx)
    return weights, like


# int32_t llama_kv_evict_apply(struct llama_context * ctx, llama_seq_id seq,
#         const int32_t * src, const int32_t * dst, int32_t n_move,
#         const int32_t * rm, int32_t n_rm);
def apply(ctx: Any, seq: int, src: Int32, dst: Int32, rm: Int32) -> None:
    """Copy rows `src` over `dst`, int32 (layer, KV head, move); then free the cells `rm`."""
    n_move = src.shape[2]
    shape = n_layer(ctx), n_head_kv(ctx), n_move
    if src.shape != shape or dst.shape != shape:
        raise ValueError(f"moves {src.shape} and {dst.shape} must both be {shape}")
    status = _apply(ctx, seq, _address(src), _address(dst), n_move, _address(rm), rm.size)
    _check("eviction", status)


# int32_t llama_kv_evict_set_dead(struct llama_context * ctx, llama_seq_id seq,
#         const int32_t * cells, int32_t n_cells, const int8_t * dead);
def set_dead(ctx: Any, seq: int, ids: Int32, dead: NDArray[np.bool_]) -> None:
    """Hide rows from attention, or show them again: bool (layer, cell), alike for all heads."""
    if dead.shape != (n_layer(ctx), ids.size):
        raise ValueError(f"dead {dead.shape} must be {(n_layer(ctx), ids.size)}")
    status = _set_dead(ctx, seq, _address(ids), ids.size, _address(dead))
    _check("rows without attention", status)


# int32_t llama_kv_evict_get_dead(struct llama_context * ctx, llama_seq_id seq,
#         const int32_t * cells, int32_t n_cells, int8_t * dead);
def get_dead(ctx: Any, seq: int, ids: Int32) -> NDArray[np.bool_]:
    """Which rows attention does not see: bool (layer, cell)."""
    dead = np.empty((n_layer(ctx), ids.size), np.bool_)
    status = _get_dead(ctx, seq, _address(ids), ids.size, _address(dead))
    _check("rows without attention", status)
    return dead


# size_t  llama_kv_evict_state_size(struct llama_context * ctx, llama_seq_id seq);
# int32_t llama_kv_evict_state_get (struct llama_context * ctx, llama_seq_id seq,
#         uint8_t * dst, size_t size);
def state_get(ctx: Any, seq: int) -> bytes:
    """Cells, their places and the recorded queries of a sequence."""
    buffer = np.empty(_state_size(ctx, seq), np.uint8)
    _check("saving the state", _state_get(ctx, seq, _address(buffer), buffer.size))
    return buffer.tobytes()


# int32_t llama_kv_evict_state_set (struct llama_context * ctx, llama_seq_id seq,
#         const uint8_t * src, size_t size);
def state_set(ctx: Any, seq: int, data: bytes | NDArray[np.uint8]) -> None:
    """Replace a sequence by a saved one; decoding goes on as it would have."""
    buffer = np.frombuffer(data, np.uint8)
    _check("loading a state", _state_set(ctx, seq, _address(buffer), buffer.size))


# void llama_kv_evict_forget(struct llama_context * ctx, llama_seq_id seq);
def forget(ctx: Any, seq: int) -> None:
    """Forget the recorded queries of a sequence."""
    _forget(ctx, seq)


# void llama_kv_evict_abort_on(struct llama_context * ctx, const volatile int32_t * flag);
def abort_on(ctx: Any, flag: Int32) -> None:
    """End `llama_decode` with status 2 once `flag`, int32 (1,), is set; it outlives the context."""
    _abort_on(ctx, _address(flag))


# int32_t llama_kv_evict_beside(const struct llama_context * ctx);
def beside(ctx: Any) -> tuple[bool, bool]:
    """Whether there are windows, and recurrent states, beside the cells that are chosen."""
    flags = int(_beside(ctx))
    return bool(flags & WINDOWS), bool(flags & STATES)


# void llama_kv_evict_make_bounded(bool bounded);
def make_bounded(bounded: bool) -> None:
    """Let contexts that this thread makes have window caches of the size that windows need.

    Otherwise these have no more cells than the cache beside them, as in stock llama.cpp.
    """
    _make_bounded(bounded)


# bool llama_kv_evict_can_end(const struct llama_context * ctx, llama_seq_id seq, llama_pos pos);
def can_end(ctx: Any, seq: int, pos: int) -> bool:
    """Whether a sequence can be cut, or copied, to end before a position.

    Its windows must still be there, and its recurrent states be those of just that position.
    """
    return bool(_can_end(ctx, seq, pos))


# int32_t llama_kv_evict_tokenize(const struct llama_vocab * vocab,
#         const char * text, int32_t text_len, llama_token * tokens, int32_t n_tokens_max,
#         bool add_special, bool parse_special);
def tokenize(vocab: Any, text: bytes, add_special: bool, parse_special: bool) -> list[int] | None:
    """Token ids of a text, None where the vocabulary can't express it.

    Raises
    ------
    ScopeError
        If there is no memory for it.
    """
    n_max = len(text) + 8
    while True:
        ids = np.empty(n_max, np.int32)
        n = _tokenize(vocab, text, len(text), _address(ids), n_max, add_special, parse_special)
        if n == INT32_MIN:
            return None
        if n == NO_STACK:
            raise ScopeError(f"no memory to tokenize {len(text)} bytes: give a shorter text")
        if n >= 0:
            return ids[:n].tolist()
        n_max = -n
