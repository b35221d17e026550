"""A model in llama.cpp: its weights, its shape, its vocabulary."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Sequence
from functools import cached_property, partial
from numbers import Integral
from pathlib import Path
from typing import Any, NamedTuple

from scope_cpp.engine import logs, trial
from scope_cpp.engine.arguments import checked
from scope_cpp.engine.context_params import CELLS_MULTIPLE, SPLIT_MODES
from scope_cpp.engine.gguf_header import Header, read_header
from scope_cpp.engine.kv_types import CellLayer
from scope_cpp.engine.load_failure import load_failure
from scope_cpp.engine.ranges import INT32_MAX, Range
from scope_cpp.errors import ScopeError, UsageError, WrongValue
from scope_cpp.native import kv_evict
from scope_cpp.native.library import llama_cpp
from scope_cpp.native.lifetime import Closable, Pointer, begin_computing, own, part

_LOAD_MODES = {  # (use_mmap, use_mlock): enum llama_load_mode; AUTO maps where devices allow it
    (True, False): "LLAMA_LOAD_MODE_AUTO",
    (True, True): "LLAMA_LOAD_MODE_MMAP_MLOCK",
    (False, False): "LLAMA_LOAD_MODE_NONE",
    (False, True): "LLAMA_LOAD_MODE_MLOCK",
}

CUT = "\ufdd0"  # a noncharacter, which Unicode keeps for use within a program

_RANGES = {  # of arguments of `Model.load`
    "n_gpu_layers": Range(int, -INT32_MAX, INT32_MAX),
    "main_gpu": Range(int, 0, INT32_MAX),
    "n_vocab": Range(int, 1, INT32_MAX),
}
_SHARE = Range(float, 0, 1e9)

_NO_TOKEN = -1
_MOST_PIECE = 64  # bytes of nearly every token
_MAX_NAMED = 8  # characters named in one message


class _Memory(NamedTuple):
    """Layers with cells that can be chosen; windows and recurrent states beside them."""

    layers: tuple[CellLayer, ...] = ()
    beside: tuple[bool, bool] = (False, False)


def _ask_memory(model: Pointer) -> _Memory:
    """As a context of a model without memory has it; nothing if there can be none."""
    params = llama_cpp.llama_context_default_params()
    params.n_ctx, params.kv_unified, params.swa_full = CELLS_MULTIPLE, True, False
    begin_computing()
    ctx = llama_cpp.llama_init_from_model(model, params)
    if not ctx:
        return _Memory()
    try:
        k, v = kv_evict.head_size(ctx), kv_evict.head_size(ctx, values=True)
        ids, heads = kv_evict.layer_ids(ctx).tolist(), kv_evict.own_heads(ctx)[:, 1].tolist()
        layers = tuple(CellLayer(i, n, k, v) for i, n in zip(ids, heads, strict=True))
        return _Memory(layers, kv_evict.beside(ctx))
    finally:
        llama_cpp.llama_free(ctx)


class Model(Closable):
    """A loaded GGUF model; a context manager.

    Made by `Model.load`. Closing it closes the generations, conversations and engines that use it.

    Attributes
    ----------
    path : Path
    header : Header
        The file's own metadata.
    offloaded : bool
        Whether layers, and with them their cells, may lie on a GPU.
    no_alloc : bool
        Whether it was loaded without memory.
    n_vocab : int
        Number of tokens; also the number of logits.
    n_layer, n_embd, n_head, n_head_kv : int
        Layers; size of the residual stream; query heads and KV heads of the first layer.
    n_ctx_train : int
        Length that the model was trained on, in tokens.
    n_positions : int or None
        Positions there are, where the model looks them up in a table; llama.cpp ends the process
        when it is given others. ``None``: any.
    """

    def __init__(
        self, address: int, header: Header, offloaded: bool = False, no_alloc: bool = False
    ) -> None:
        super().__init__(f"the model {header.path.name}", "load it again")
        self.no_alloc = no_alloc
        self._placement: dict[str, Any] = {}
        self.offloaded = offloaded
        self.header = header
        self.path = header.path
        free = partial(llama_cpp.llama_model_free, address)
        self._pointer = ptr = own(Pointer(address), free)
        self._vocab: Pointer | None = part(llama_cpp.llama_model_get_vocab(ptr), ptr)
        self.n_vocab = int(llama_cpp.llama_vocab_n_tokens(self._vocab))
        self.n_layer = int(llama_cpp.llama_model_n_layer(ptr))
        self.n_embd = int(llama_cpp.llama_model_n_embd(ptr))
        self.n_head = int(llama_cpp.llama_model_n_head(ptr))
        self.n_head_kv = int(llama_cpp.llama_model_n_head_kv(ptr))
        self.n_ctx_train = int(llama_cpp.llama_model_n_ctx_train(ptr))
        self.n_positions = self.n_ctx_train if header.learned_positions else None

    @classmethod
    @checked()
    def load(
        cls,
        path: str | Path,
        *,
        n_gpu_layers: int | None = None,
        use_mmap: bool = True,
        use_mlock: bool = False,
        no_alloc: bool = False,
        split_mode: str | None = None,
        main_gpu: int | None = None,
        tensor_split: Sequence[float] | None = None,
        n_vocab: int | None = None,
    ) -> Model:
        """Load a model; arguments left out have llama.cpp's defaults.

        Parameters
        ----------
        path : str or Path
            A GGUF file, or the first part of a split one.
        n_gpu_layers : int, optional
            Layers to offload; a negative number means all.
        use_mmap, use_mlock : bool
            Map the file instead of reading it; keep it from being swapped out.
        no_alloc : bool
            Read the metadata only, to compute what memory would be needed.
        split_mode : str, optional
            One of `SPLIT_MODES`.
        main_gpu : int, optional
        tensor_split : sequence of float, optional
            Share of each GPU.
        n_vocab : int, optional
            Leave the vocabulary unread, which has so many tokens: most of the time that a model
            without memory takes.

        Raises
        ------
        UsageError
            When there is no such file, or an argument is out of range.
        ScopeError
            When it is no model or llama.cpp cannot load it, see `read_header` and `trial`; the
            message gives the reason.
        """
        _require_range(n_gpu_layers=n_gpu_layers, main_gpu=main_gpu, n_vocab=n_vocab)
        header = read_header(path)
        placement = {
            "n_gpu_layers": n_gpu_layers,
            "main_gpu": main_gpu,
            "split_mode": None if split_mode is None else _split_mode(split_mode),
            "tensor_split": None if tensor_split is None else _tensor_split(tensor_split),
        }
        trial.require(header, weights=not no_alloc)
        load_mode = _LOAD_MODES[use_mmap and not no_alloc, use_mlock]
        params = _native_params(load_mode, no_alloc, placement)
        if n_vocab is not None:
            params.kv_overrides = overrides = _without_vocabulary(header.architecture, n_vocab)
        llama_cpp.llama_backend_init()
        logs.clear()
        ptr = llama_cpp.llama_model_load_from_file(os.fsencode(header.path), params)
        if not ptr:
            raise ScopeError(load_failure(header.path, logs.errors()))
        if n_vocab is not None:
            del overrides  # llama.cpp has read it
        model = cls(ptr, header, params.n_gpu_layers != 0, no_alloc)
        model._placement = {
            "n_gpu_layers": n_gpu_layers,
            "split_mode": split_mode,
            "main_gpu": main_gpu,
            "tensor_split": tensor_split,
        }
        return model

    def unallocated(self) -> Model:
        """The same model without weights and vocabulary: contexts of it take no memory."""
        return Model.load(self.path, no_alloc=True, n_vocab=self.n_vocab, **self._placement)

    def _release(self) -> None:
        self._vocab = None

    @property
    def vocab(self) -> Pointer:
        """The ``llama_vocab *``; ScopeError if the model is closed."""
        return self._checked(self._vocab)

    # shape

    @property
    def desc(self) -> str:
        """Architecture, number of weights and quantization, such as ``llama 135M Q4_1``.

        llama.cpp's own line guesses the number by the shape: 256M for these 134,515,008.
        """
        return f"{self.arch} {format_count(self.n_params)} {self.file_type}"

    @property
    def file_type(self) -> str:
        """Quantization of the weights."""
        name = llama_cpp.llama_ftype_name(llama_cpp.llama_model_ftype(self.ptr))
        return name.decode() if name else "unknown"

    @property
    def arch(self) -> str:
        """Architecture, such as ``llama``."""
        return self.header.architecture

    @property
    def n_params(self) -> int:
        """Number of weights."""
        return int(llama_cpp.llama_model_n_params(self.ptr))

    @property
    def size_bytes(self) -> int:
        """Bytes of all weights."""
        return int(llama_cpp.llama_model_size(self.ptr))

    @property
    def n_head_kv_by_layer(self) -> tuple[int, ...]:
        """KV heads of every layer; 0 for a layer without attention."""
        n_head_kv = self.header.get("attention.head_count_kv")
        if isinstance(n_head_kv, list):
            return tuple(n_head_kv[: self.n_layer])
        return (self.n_head_kv,) * self.n_layer

    @property
    def head_dim_k(self) -> int:
        """Values in one head's K; 0 without attention."""
        return self._head_dim("key")

    @property
    def head_dim_v(self) -> int:
        """Values in one head's V; 0 without attention."""
        return self._head_dim("value")

    def _head_dim(self, what: str) -> int:
        stated = self.header.get(f"attention.{what}_length")
        return int(stated or (self.n_embd // self.n_head if self.n_head else 0))

    @property
    def has_fixed_state(self) -> bool:
        """Whether it remembers by more than cells: by windows or by recurrent states."""
        return any(self._memory.beside)

    @property
    def has_beside(self) -> bool:
        """Whether windows or recurrent states lie beside cells that can be chosen."""
        return bool(self._memory.layers) and self.has_fixed_state

    @property
    def cell_layers(self) -> tuple[CellLayer, ...]:
        """The layers in which a cell of the cache has rows.

        A layer that has a window or a recurrent state only has none. Where there are no cells that
        can be chosen, it is all layers that attend.
        """
        sizes = self.head_dim_k, self.head_dim_v
        return self._memory.layers or tuple(
            CellLayer(layer, n, *sizes) for layer, n in enumerate(self.n_head_kv_by_layer) if n
        )

    @cached_property
    def _memory(self) -> _Memory:
        """What llama.cpp says of the memory, where it may have more than cells."""
        ptr = self.ptr
        recurrent = llama_cpp.llama_model_is_recurrent(ptr) or llama_cpp.llama_model_is_hybrid(ptr)
        if not recurrent and llama_cpp.llama_model_n_swa(ptr) <= 0:
            return _Memory()
        if self.no_alloc:
            return _ask_memory(ptr)
        with self.unallocated() as twin:
            return _ask_memory(twin.ptr)

    @property
    def n_ff(self) -> int:
        """Most numbers that a token has in between layers: of all experts that it takes."""
        by_layer = self.header.get("feed_forward_length") or 0
        dense = max(by_layer) if isinstance(by_layer, list) else by_layer
        n_experts = self.header.get("expert_used_count") or 0
        by_expert = self.header.get("expert_feed_forward_length") or dense
        return max(int(dense), self.n_embd, n_experts * int(by_expert))

    @checked()
    def metadata(self, key: str) -> str | None:
        """Return a scalar of the file's metadata as text, None if there is none."""
        name, fn = _encode(key), llama_cpp.llama_model_meta_val_str
        if fn(self.ptr, name, None, 0) < 0:
            return None
        value = _grown(lambda buf, n: fn(self.ptr, name, buf, n))
        return value.decode("utf-8", errors="replace")

    @property
    def chat_template(self) -> str | None:
        """The Jinja chat template of the file, None without one."""
        text = llama_cpp.llama_model_chat_template(self.ptr, None)
        return text.decode("utf-8", errors="replace") if text and text.strip() else None

    # vocabulary

    @property
    def bos_token(self) -> int | None:
        """Token that begins a text."""
        return _token(llama_cpp.llama_vocab_bos(self.vocab))

    @property
    def eos_token(self) -> int | None:
        """Token that ends a text."""
        return _token(llama_cpp.llama_vocab_eos(self.vocab))

    @property
    def eot_token(self) -> int | None:
        """Token that ends a turn of a chat."""
        return _token(llama_cpp.llama_vocab_eot(self.vocab))

    @cached_property
    def add_bos(self) -> bool:
        """Whether `tokenize` with `add_special` puts the BOS token first."""
        if self.bos_token is None:
            return False
        kind = llama_cpp.llama_vocab_type(self.vocab)
        if kind in (llama_cpp.LLAMA_VOCAB_TYPE_RWKV, llama_cpp.LLAMA_VOCAB_TYPE_PLAMO2):
            return False  # llama.cpp adds nothing there, whatever the file says
        wanted = llama_cpp.llama_vocab_get_add_bos(self.vocab)
        return bool(wanted) or kind == llama_cpp.LLAMA_VOCAB_TYPE_WPM

    @cached_property
    def eog_tokens(self) -> frozenset[int]:
        """Tokens that end a generation."""
        is_eog, vocab = llama_cpp.llama_vocab_is_eog, self.vocab
        return frozenset(token for token in range(self.n_vocab) if is_eog(vocab, token))

    @cached_property
    def control_names(self) -> tuple[str, ...]:
        """Texts that `tokenize` reads as one token only with `parse_special`, longest first."""
        attr, special = llama_cpp.llama_vocab_get_attr, llama_cpp.LLAMA_TOKEN_ATTR_CONTROL
        special |= llama_cpp.LLAMA_TOKEN_ATTR_UNKNOWN
        vocab = self.vocab
        tokens = [token for token in range(self.n_vocab) if attr(vocab, token) & special]
        pieces = (self.token_to_piece(token, special=True) for token in tokens)
        names = {piece.decode("utf-8", errors="replace") for piece in pieces}
        return tuple(sorted((name for name in names if len(name) > 1), key=len, reverse=True))

    @property
    def has_eog(self) -> bool:
        """Whether any token ends a generation."""
        return bool(self.eog_tokens)

    @property
    def suppressed_tokens(self) -> tuple[int, ...]:
        """Tokens that the file says must not be generated."""
        n, vocab = ctypes.c_int32(), self.vocab
        tokens = llama_cpp.llama_vocab_get_suppress_tokens(vocab, ctypes.byref(n))
        return tuple(tokens[: n.value]) if n.value else ()

    def is_eog(self, token: int) -> bool:
        """Whether `token` ends a generation."""
        self._check_token(token)
        return bool(llama_cpp.llama_vocab_is_eog(self.vocab, token))

    @checked()
    def tokenize(
        self, text: str, *, add_special: bool = True, parse_special: bool = False
    ) -> list[int]:
        """Return the tokens of `text`, which something is to be written after.

        So no EOS and no separator follow it, not even where the file asks for them
        (``tokenizer.ggml.add_eos_token``): that is for texts that are trained on or embedded.

        Parameters
        ----------
        text : str
            Between its parts that are separated by `CUT`, nothing is read as one token.
        add_special : bool
            Begin with BOS where the model wants that and the text does not begin with it.
        parse_special : bool
            Read the text of control tokens, such as ``<|im_start|>``, as those tokens.

        Raises
        ------
        UsageError
            For characters that the vocabulary cannot express; the message names them.
        """
        first, *rest = text.split(CUT)
        tokens = self._tokenize(first, parse_special)
        # SentencePiece begins a text with a space, but goes on after a new line without one
        before = self._tokenize("\n", False) if rest else []
        for piece in rest:
            after = self._tokenize("\n" + piece, parse_special)
            if after[: len(before)] == before:
                tokens += after[len(before) :]
            else:
                tokens += self._tokenize(piece, parse_special)
        bos = self.bos_token
        if add_special and self.add_bos and bos is not None and tokens[:1] != [bos]:
            return [bos, *tokens]
        return tokens

    def _tokenize(self, text: str, parse_special: bool) -> list[int]:
        tokens = kv_evict.tokenize(self.vocab, _encode(text), False, parse_special)
        if tokens is None:
            raise UsageError(self._inexpressible(text))
        return tokens

    @checked("token")
    def token_to_piece(self, token: int, *, special: bool = False) -> bytes:
        """Return the bytes of a token: often part of a character, never more than one token's.

        Control tokens give no bytes unless `special` is true.
        """
        self._check_token(token)
        fn = llama_cpp.llama_token_to_piece
        return _grown(lambda buf, n: fn(self.vocab, token, buf, n, 0, special))

    @cached_property
    def pieces(self) -> tuple[bytes, ...]:
        """The bytes of every token; none for control tokens."""
        n_vocab, buffer = self.n_vocab, ctypes.create_string_buffer(_MOST_PIECE)
        fn = partial(llama_cpp.llama_token_to_piece, self.vocab)
        sizes = (fn(token, buffer, _MOST_PIECE, 0, False) for token in range(n_vocab))
        return tuple(
            buffer.raw[:n] if n >= 0 else self.token_to_piece(token)
            for token, n in enumerate(sizes)
        )

    @checked()
    def detokenize(self, tokens: Sequence[int], *, special: bool = False) -> str:
        """Return the text of `tokens`, with that of control tokens if `special` is true."""
        for token in tokens:
            self._check_token(token)
        array = (llama_cpp.llama_token * len(tokens))(*tokens)
        fn = llama_cpp.llama_detokenize
        text = _grown(
            lambda buf, n: fn(self.vocab, array, len(tokens), buf, n, False, special),
            8 * len(tokens) + 64,
        )
        return text.decode("utf-8", errors="replace")

    def _check_token(self, token: int) -> None:
        """Refuse a token outside of the vocabulary, for which llama.cpp would abort."""
        if not isinstance(token, Integral) or not 0 <= token < self.n_vocab:
            raise UsageError(f"token {token!r} is outside of the vocabulary of {self.n_vocab}")

    def _inexpressible(self, text: str) -> str:
        distinct = dict.fromkeys(text)
        fails = [
            char
            for char in distinct
            if kv_evict.tokenize(self.vocab, char.encode(), False, False) is None
        ]
        if not fails:
            return f"{self.path}: the vocabulary cannot express the text: change it"
        named = ", ".join(f"U+{ord(char):04X} ({char!r})" for char in fails[:_MAX_NAMED])
        more = f" and {len(fails) - _MAX_NAMED} more" if len(fails) > _MAX_NAMED else ""
        return f"{self.path}: the vocabulary has no token for {named}{more}: leave it out"


def _native_params(load_mode: str, no_alloc: bool, placement: dict[str, Any]) -> Any:
    params = llama_cpp.llama_model_default_params()
    params.load_mode = getattr(llama_cpp, load_mode)
    params.no_alloc = no_alloc
    for name, value in placement.items():
        if value is not None:
            setattr(params, name, value)
    return params


def _without_vocabulary(architecture: str, n_vocab: int) -> Any:
    """Overrides of the file's metadata, for a vocabulary of so many tokens without texts."""
    overrides = (llama_cpp.llama_model_kv_override * 3)()  # the last one, empty, ends them
    overrides[0].key = b"tokenizer.ggml.model"
    overrides[0].tag = llama_cpp.LLAMA_KV_OVERRIDE_TYPE_STR
    overrides[0].value.val_str = b"no_vocab"
    overrides[1].key = f"{architecture}.vocab_size".encode()
    overrides[1].tag = llama_cpp.LLAMA_KV_OVERRIDE_TYPE_INT
    overrides[1].value.val_i64 = n_vocab
    return overrides


def _require_range(**arguments: int | None) -> None:
    for name, value in arguments.items():
        if value is not None:
            _RANGES[name].check(name, value)


def _split_mode(name: str) -> int:
    if name not in SPLIT_MODES:
        raise UsageError(f"unknown split mode {name!r}: one of {', '.join(SPLIT_MODES)}")
    return SPLIT_MODES.index(name)


def _tensor_split(shares: Sequence[float]) -> Any:
    n_devices = int(llama_cpp.llama_max_devices())
    if len(shares) > n_devices:
        raise WrongValue("tensor_split", f"has {len(shares)} shares: llama.cpp takes {n_devices}")
    for share in shares:
        _SHARE.check("tensor_split", share)
    return (ctypes.c_float * n_devices)(*shares)


def _token(token: int) -> int | None:
    return None if token == _NO_TOKEN else int(token)


def _encode(text: str) -> bytes:
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError as err:
        raise UsageError(
            f"the text is not valid Unicode at character {err.start} (U+{ord(text[err.start]):04X})"
            ": give UTF-8"
        ) from None


def format_count(n: int) -> str:
    """Return a number of weights as models are called by it.

    >>> format_count(134_515_008), format_count(1_543_714_304)
    ('135M', '1.5B')
    """
    size, unit = float(n), ""
    for larger in ("K", "M", "B", "T"):
        if size < 999.5:
            break
        size, unit = size / 1000, larger
    digits = 1 if unit and size < 9.95 else 0
    return f"{size:.{digits}f}".removesuffix(".0") + unit


def _grown(call: Callable[[Any, int], int], size: int = 256) -> bytes:
    """Call a function that fills a buffer, and again with a larger one if it says so.

    llama.cpp gives the needed size either negated or, as snprintf does, as it is.
    """
    buffer = ctypes.create_string_buffer(size)
    n = call(buffer, size)
    if abs(n) >= size:
        size = abs(n) + 1
        buffer = ctypes.create_string_buffer(size)
        n = call(buffer, size)
    return buffer.raw[: max(n, 0)]
