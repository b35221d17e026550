"""One llama.cpp context: created with the cells that the budget needs, decoded batch by batch."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from scope_cpp.engine import logs
from scope_cpp.engine.context_params import FLASH_ATTN, ContextParams
from scope_cpp.engine.length import require_positions
from scope_cpp.engine.threads import default_threads
from scope_cpp.errors import ScopeError, UsageError
from scope_cpp.native import kv_evict
from scope_cpp.native.finite import require_logits
from scope_cpp.native.library import llama_cpp
from scope_cpp.native.lifetime import Closable, Pointer, begin_computing, own, part

if TYPE_CHECKING:
    from scope_cpp.engine.model import Model

Result = TypeVar("Result")

_MOST_CELLS = 2**31 - 1  # llama.cpp counts them, and positions, in 32 bits

# what lies beside the cells: windows, recurrent states, or both
_BESIDE = llama_cpp.LLAMA_STATE_SEQ_FLAGS_PARTIAL_ONLY

# cells that are copied at once: they pass through main memory
COPIED_CELLS = 64


class Row(NamedTuple):
    """A token of a batch: its position, its sequence, and whether its logits are wanted."""

    token: int
    pos: int
    seq: int
    logits: bool


class Context(Closable):
    """Owns a ``llama_context`` and one reusable batch; a context manager."""

    def __init__(self, model: Model, params: ContextParams) -> None:
        self._threads: ThreadPoolExecutor | None = None
        super().__init__("the context", "make another one", model)
        self.model = model
        self.params = params
        self.n_recorded = 0
        if params.n_cells > _MOST_CELLS:
            raise ScopeError(f"no context of {params.n_cells} cells: at most {_MOST_CELLS}")
        begin_computing()
        logs.clear()
        needs = model.ptr
        kv_evict.make_bounded(True)
        try:
            address = llama_cpp.llama_init_from_model(needs, _native_params(params))
        finally:
            kv_evict.make_bounded(False)
        if not address:
            raise _refusal(model, params)
        self.n_batch = int(llama_cpp.llama_n_batch(address))
        self.n_ubatch = int(llama_cpp.llama_n_ubatch(address))
        self._n_threads = int(llama_cpp.llama_n_threads(address))
        self._batch = llama_cpp.llama_batch_init(self.n_batch, 0, 1)
        self._aborted = np.zeros(1, np.int32)
        kv_evict.abort_on(address, self._aborted)
        free = partial(_free, address, self._batch)
        self._pointer = own(Pointer(address), free, needs, self._aborted)
        if not llama_cpp.llama_get_memory(address):
            self.close()
            raise ScopeError(f"{model.path.name} is an encoder ({model.arch}): it can't generate")

    def _release(self) -> None:
        if self._threads is not None:
            self._threads.shutdown(wait=False)  # what runs there has arrays only

    def abort(self) -> None:
        """Let the decode that runs and all later ones fail; any thread may call it.

        On a CPU the running one ends at once, in the middle of a batch.
        """
        self._aborted[0] = 1

    @property
    def memory(self) -> Pointer:
        """The context's ``llama_memory_t``."""
        ptr = self.ptr
        return part(llama_cpp.llama_get_memory(ptr), ptr)

    @property
    def cuts_anywhere(self) -> bool:
        """Whether a sequence can be cut, or copied, at any position.

        It can where cells are all that is kept of it: no windows, no recurrent states.
        """
        return kv_evict.n_cells(self.ptr) > 0 and not any(kv_evict.beside(self.ptr))

    @property
    def n_cells(self) -> int:
        """Cells that llama.cpp allocated."""
        return kv_evict.n_cells(self.ptr) or int(llama_cpp.llama_n_ctx(self.ptr))

    def each(
        self, function: Callable[[int], Result], numbers: Iterable[int], /
    ) -> Iterable[Result]:
        """As ``map``, on as many threads as llama.cpp decodes with: for NumPy, which frees them."""
        if self._n_threads == 1:
            return map(function, numbers)
        if self._threads is None:
            self._threads = ThreadPoolExecutor(self._n_threads, "scope-numpy")
        self.check_open()
        try:
            return self._threads.map(function, numbers)
        except RuntimeError:
            self.check_open()  # another thread may have closed it just now
            raise

    def record_queries(self, n: int) -> None:
        """Record at least the last `n` queries of each sequence from now on.

        Raises
        ------
        ScopeError
            If fewer are recorded already and cells are in use: what was recorded would be lost.
        NativeError
            If this cache can't be bounded; the message says why.
        """
        if n > self.n_recorded:
            if self.n_recorded and kv_evict.n_used(self.ptr):
                raise ScopeError(f"{n} queries can't be recorded any more: open all caches first")
            kv_evict.init(self.ptr, n, self.params.n_slots)
            self.n_recorded = n

    def decode(
        self, tokens: Sequence[int], pos: int, seq: int = 0, all_logits: bool = False
    ) -> None:
        """Decode `tokens` at positions ``pos, pos + 1, …``; logits for the last one (or all).

        They go through llama.cpp in batches that it computes at once, so that Ctrl-C waits for one
        of them at most; all logits take one.

        Raises
        ------
        ScopeError
            If llama.cpp finds no room in the cache or fails to compute, or as `decode_rows`.
        """
        last = len(tokens) - 1
        rows = [Row(token, pos + i, seq, all_logits or i == last) for i, token in enumerate(tokens)]
        size = len(rows) if all_logits else self.n_ubatch
        for start in range(0, len(rows), max(1, size)):
            self.decode_rows(rows[start : start + size])

    def decode_rows(self, rows: Sequence[Row]) -> None:
        """Decode the tokens of several sequences as one batch, of `n_batch` tokens at most.

        Raises
        ------
        ScopeError
            As `decode`, where nothing is right but to forget the sequences; or, before any is
            decoded, if a batch holds fewer tokens, the context has fewer outputs, or the model
            fewer positions.
        """
        if len(rows) > self.n_batch:
            raise ScopeError(f"{len(rows)} tokens at once, a batch holds {self.n_batch}")
        n_outputs, most = sum(row.logits for row in rows), self.params.n_outputs
        if n_outputs > (most or self.params.n_seq_max):  # llama.cpp would abort
            raise ScopeError(f"logits of {n_outputs} tokens of a batch are wanted: set n_outputs")
        if self.model.n_positions is not None:
            require_positions(self.model, 1 + max((row.pos for row in rows), default=0))
        ptr, batch = self.ptr, self._batch
        with ptr.lock:
            batch.n_tokens = len(rows)
            for i, row in enumerate(rows):
                batch.token[i] = row.token
                batch.pos[i] = row.pos
                batch.n_seq_id[i] = 1
                batch.seq_id[i][0] = row.seq
                batch.logits[i] = row.logits
            status = llama_cpp.llama_decode(ptr, batch)
        if status == 2:
            raise ScopeError("the computation was aborted")
        if status == 1:
            raise ScopeError(f"the KV cache of {self.n_cells} cells is full: give a larger budget")
        if status != 0:
            raise ScopeError(f"llama.cpp failed to decode (status {status}): {_reason()}")

    def logits(self, i: int = -1) -> NDArray[np.float32]:
        """Copy of the logits of the `i`-th output of the last batch: float32 (n_vocab,).

        Raises
        ------
        ScopeError
            If there is no such output, or the logits are not finite, or all the same.
        """
        ptr = self.ptr
        with ptr.lock:
            return self.logits_in_place(i).copy()

    def logits_in_place(self, i: int = -1) -> NDArray[np.float32]:
        """As `logits`, but llama.cpp's own: until the next decode, and while its lock is held."""
        ptr = self.ptr
        row = llama_cpp.llama_get_logits_ith(ptr, i)
        if not row:
            raise ScopeError(f"the last batch has no logits of output {i}")
        return require_logits(np.ctypeslib.as_array(row, (self.model.n_vocab,)), ptr)

    @property
    def tainted(self) -> bool:
        """Whether NaN or infinite numbers were met here, which free cells may still hold.

        Attention reads free cells, and those of other sequences, and gives them a weight of 0; but
        0 times NaN is NaN. See `zero_free` and `wipe`.
        """
        return bool(self.ptr.tainted)

    def has_finite_logits(self, i: int) -> bool:
        """Whether the logits of the `i`-th output of the last batch are finite."""
        try:
            self.logits_in_place(i)
        except ScopeError:
            self.check_open()
            return False
        return True

    # -- cells ----------------------------------------------------------------------------

    def remove(self, seq: int, start: int = 0, stop: int = -1) -> bool:
        """Free the cells of a sequence at positions ``start`` to ``stop - 1``; -1 is no end.

        False, with nothing changed, where the rest would not be what it was: recurrent states
        can't go back, and windows only as far as their tokens are still there.
        """
        ptr = self.ptr
        with ptr.lock:
            if start > 0 and stop < 0 and not kv_evict.can_end(ptr, seq, start):
                return False
            memory = llama_cpp.llama_get_memory(ptr)
            return bool(llama_cpp.llama_memory_seq_rm(memory, seq, start, stop))

    def wipe(self) -> None:
        """Free the cells of all sequences, and set what they held to 0."""
        ptr = self.ptr
        with ptr.lock:
            llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(ptr), True)
            ptr.tainted = False

    def zero_free(self) -> None:
        """Set what free cells, windows and recurrent states hold to 0.

        Raises
        ------
        NativeError
            If this cache's can't be looked at.
        """
        kv_evict.zero_free(self.ptr)
        self.ptr.tainted = False

    def share(self, source: int, seq: int, stop: int, start: int = 0) -> None:
        """Let a sequence have another one's cells of positions `start` to ``stop - 1`` too."""
        ptr = self.ptr
        with ptr.lock:
            memory = llama_cpp.llama_get_memory(ptr)
            llama_cpp.llama_memory_seq_cp(memory, source, seq, start, stop)

    def copy(self, source: int, seq: int, n: int, scratch: int) -> None:
        """Let a sequence have cells of its own that hold what another one's first `n` do.

        They are copied `COPIED_CELLS` at a time, through a sequence `scratch` without cells.

        Raises
        ------
        ScopeError
            If they have no room.
        """
        for start in range(0, n, COPIED_CELLS):
            stop = min(n, start + COPIED_CELLS)
            self.share(source, scratch, stop, start)
            self.write_state(scratch, self.read_state(scratch))
            self.share(scratch, seq, stop, start)
            self.remove(scratch)

    @property
    def has_beside(self) -> bool:
        """Whether windows or recurrent states lie beside the cells."""
        return kv_evict.n_cells(self.ptr) > 0 and any(kv_evict.beside(self.ptr))

    def read_state(self, seq: int, *, beside: bool = False) -> NDArray[np.uint8]:
        """Return what is kept of a sequence, as llama.cpp saves it.

        With `beside` only what lies beside its cells, if it `has_beside`: the tokens that are in
        the window, and recurrent states.

        Raises
        ------
        ScopeError
            If llama.cpp does not give it.
        """
        ptr, flags = self.ptr, _BESIDE if beside else 0
        with ptr.lock:
            buffer = np.empty(llama_cpp.llama_state_seq_get_size_ext(ptr, seq, flags), np.uint8)
            n = llama_cpp.llama_state_seq_get_data_ext(ptr, _bytes(buffer), buffer.size, seq, flags)
        if n != buffer.size:
            raise ScopeError("llama.cpp gives no state of the sequence: it can't be saved")
        return buffer

    def state_bytes(self, seq: int) -> int:
        """Bytes of what `read_state` returns."""
        ptr = self.ptr
        with ptr.lock:
            return int(llama_cpp.llama_state_seq_get_size_ext(ptr, seq, 0))

    def write_state(self, seq: int, state: NDArray[np.uint8]) -> None:
        """Replace what is kept of a sequence by all that `read_state` gave.

        Raises
        ------
        ScopeError
            If it is of another model, damaged, or has no room.
        """
        self._write(seq, state, 0)

    def return_to(self, seq: int, n: int, beside: NDArray[np.uint8]) -> None:
        """Take all but the first `n` tokens of a sequence away, whatever lay beside them since.

        Parameters
        ----------
        seq
            Its cells of these tokens are there still, or some of them.
        n
            Tokens.
        beside
            What `read_state` gave of what lies beside the cells, after so many tokens.

        Raises
        ------
        ScopeError
            As `write_state`.
        """
        self._write(seq, beside, _BESIDE)
        ptr = self.ptr
        with ptr.lock:
            llama_cpp.llama_memory_seq_rm(llama_cpp.llama_get_memory(ptr), seq, n, -1)

    def _write(self, seq: int, state: NDArray[np.uint8], flags: int) -> None:
        ptr, data = self.ptr, np.ascontiguousarray(state)
        with ptr.lock:
            n = llama_cpp.llama_state_seq_set_data_ext(ptr, _bytes(data), data.size, seq, flags)
        if n != data.size:
            raise ScopeError("the cells have no room in this context, or are of another model")


def _free(address: int, batch: Any) -> None:
    llama_cpp.llama_free(address)
    llama_cpp.llama_batch_free(batch)


def _bytes(data: NDArray[np.uint8]) -> Any:
    return data.ctypes.data_as(ctypes.POINTER(ctypes.c_uint8))


def _native_params(params: ContextParams) -> Any:
    native = llama_cpp.llama_context_default_params()
    native.n_ctx = params.n_cells
    native.n_batch = min(params.n_batch, max(params.n_cells, 1))
    native.n_ubatch = min(params.n_ubatch, native.n_batch)
    native.n_seq_max = params.n_seq_max
    native.n_outputs_max = params.n_outputs or params.n_seq_max
    native.kv_unified = True
    native.swa_full = False
    native.type_k, native.type_v = params.type_k, params.type_v
    native.flash_attn_type = FLASH_ATTN[params.flash_attn]
    native.offload_kqv = params.offload_kqv
    native.n_threads = params.n_threads or default_threads()
    native.n_threads_batch = params.n_threads_batch or native.n_threads
    native.no_perf = True
    return native


def _refusal(model: Model, params: ContextParams) -> ScopeError:
    """Return why llama.cpp made no context."""
    reason = _reason()
    if "quantized V cache" in reason:  # the settings allow it: the model doesn't
        return UsageError(
            f"{model.path.name} ({model.arch}) computes without flash attention, which a V in "
            "blocks needs: give -ctv f16"
        )
    return ScopeError(f"no context of {params.n_cells} cells: {reason}")


def _reason() -> str:
    errors = logs.errors()
    return errors[-1] if errors else "no reason was logged"
