"""The header of a GGUF file, read without llama.cpp.

Tells in milliseconds what a file is, and refuses what is no model with one clear line. Only the
key-value pairs are read; the layout is that of ggml/docs/gguf.md (versions 2 and 3). Any bytes are
read in linear time and bounded memory.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from scope_cpp.engine.catalog import named
from scope_cpp.engine.gguf_kinds import DRAFT, not_a_model
from scope_cpp.errors import ScopeError, UsageError
from scope_cpp.printable import other_start

_MAGIC = b"GGUF"
_VERSIONS = (2, 3)

# enum gguf_metadata_value_type
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q"}
_SCALARS[12] = "d"
_STRING, _ARRAY = 8, 9

_ALIGNMENT = 32  # of the tensors' data, unless the file says otherwise

# what must be a text where it is there
_TEXTS = ("general.architecture", "tokenizer.chat_template")

# per-layer values are kept; vocabularies, templates and licences are skipped
_KEPT_ARRAY = 4096
_KEPT_KEY, _KEPT_STRING = 256, 4096  # bytes

# more than any model has; what claims more is damaged
_MAX_PAIRS, _MAX_TENSORS, _MAX_DIMENSIONS = 1 << 16, 1 << 20, 4
_MAX_NUMBERS, _MAX_STRINGS = 1 << 20, 1 << 23  # in all arrays: numbers kept, strings skipped

# architectures whose positions are looked up in a table
_LEARNED_POSITIONS = ("gpt2", "starcoder")

# architectures without attention; what else has none is a file that llama.cpp gives up on
_RECURRENT = ("mamba", "mamba2", "rwkv6", "rwkv6qwen2", "rwkv7", "arwkv7")

_INT32_MAX = 2**31 - 1
_NO_VOCABULARY = ("none", "no_vocab")  # tokenizer.ggml.model

T = TypeVar("T")


@dataclass(frozen=True)
class Header:
    """What the header of a GGUF file says.

    Attributes
    ----------
    path : Path
    n_tensors : int
    metadata : dict
        Scalars and strings of up to 4096 bytes by key, and arrays of up to 4096 numbers as lists;
        longer ones and arrays of strings are left out.
    n_bytes : int
        Size of the key-value pairs in the file, the vocabulary among them.
    """

    path: Path
    n_tensors: int
    metadata: dict[str, Any]
    n_bytes: int

    @property
    def architecture(self) -> str:
        """``general.architecture``, such as ``llama``; empty if the file does not say."""
        return str(self.metadata.get("general.architecture", ""))

    def get(self, key: str, default: Any = None) -> Any:
        """Return the architecture's own value `key`, such as ``context_length``."""
        return self.metadata.get(f"{self.architecture}.{key}", default)

    @property
    def n_ctx_train(self) -> int | None:
        """Length that the model was trained on, in tokens."""
        return self.get("context_length")

    @property
    def learned_positions(self) -> bool:
        """Whether positions are looked up in a table that was learned, with no others beyond it."""
        if self.architecture == "mpt":
            return not self.get("attention.max_alibi_bias")
        return self.architecture in _LEARNED_POSITIONS

    @property
    def no_attention(self) -> str | None:
        """By which value no layer attends, although the architecture does; ``None``: some do."""
        if self.architecture in _RECURRENT:
            return None
        heads, n_layer = self.get("attention.head_count_kv"), self.get("block_count")
        if isinstance(heads, list):
            heads = any(heads[: n_layer if isinstance(n_layer, int) else None])
        if heads is not None and not heads:
            return "attention.head_count_kv is 0 in all layers"
        interval = self.get("full_attention_interval")
        if isinstance(interval, int) and isinstance(n_layer, int) and interval > n_layer > 0:
            return f"full_attention_interval is {interval}, with {n_layer} layers"
        return None


def read_header(path: str | Path) -> Header:
    """Read the header of a model file.

    Raises
    ------
    UsageError
        When the file is missing or unreadable.
    ScopeError
        When it is no GGUF, cut off within its header, damaged, of an unknown version, no model (a
        LoRA adapter), or lacks weights, a vocabulary or layers with attention.
    """
    path = Path(path)
    header = _parse(path)
    kind = not_a_model(header.metadata)
    if kind is not None:
        raise ScopeError(f"{path} is {kind}")
    is_split = header.metadata.get("split.count") not in (None, 0, 1)  # its first part may be bare
    if header.n_tensors == 0 and not is_split:
        kind = header.architecture or "unknown"
        raise ScopeError(
            f"{path} holds a vocabulary only (architecture {kind}): give a GGUF file with weights"
        )
    if header.get("nextn_predict_layers") and not is_split and not _begins(path):
        raise ScopeError(f"{path} is {DRAFT}")
    if header.metadata.get("tokenizer.ggml.model") in _NO_VOCABULARY:
        raise ScopeError(f"{path} has no vocabulary: it can neither read nor write text")
    if header.no_attention is not None:
        raise ScopeError(
            f"{path} has no layer with attention ({header.architecture}: {header.no_attention}), "
            "and llama.cpp can't run it: convert it anew, or give another model"
        )
    length = header.n_ctx_train
    if isinstance(length, int) and not 0 < length < _INT32_MAX:  # as llama.cpp gives it to us
        raise ScopeError(
            f"{path} is damaged: it claims to be trained on {length} tokens at once; "
            "download it again, or convert it anew"
        )
    return header


@dataclass(frozen=True)
class Layout:
    """Where the parts of a GGUF file lie.

    Attributes
    ----------
    n_header
        Bytes of the header: metadata, vocabulary, and names, shapes and types of the tensors.
    tensors
        Offset in the file of each tensor's data, ascending.
    """

    n_header: int
    tensors: tuple[int, ...]


def read_layout(path: str | Path) -> Layout:
    """Read where header and tensors of a model file lie; raises as `read_header` does."""
    return _read(Path(path), lambda reader: reader.layout())


def _begins(path: Path) -> bool:
    """Whether a file has the first layer: drafts for later tokens (MTP) have the last one only."""
    return any(name.startswith("blk.0.") for name in _read(path, lambda reader: reader.names()))


def _parse(path: Path) -> Header:
    return _read(path, lambda reader: reader.header())


def _read(path: Path, read: Callable[[_Reader], T]) -> T:
    try:
        if path.is_dir():
            raise UsageError(f"{path} is a directory: give a GGUF file")
        if path.exists() and not path.is_file():  # opening a pipe would wait
            raise UsageError(f"{path} is no regular file: give a GGUF file")
        with path.open("rb") as file:
            magic = file.read(4)
            if magic != _MAGIC:
                raise ScopeError(f"{path} is not a GGUF file: {other_start(magic, _MAGIC)}")
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                return read(_Reader(path, data))
    except FileNotFoundError:
        raise UsageError(
            f"{path} does not exist: give the path of a GGUF file{named(str(path))}"
        ) from None
    except (OSError, ValueError) as err:  # ValueError: a NUL character in the path
        raise UsageError(f"{path} cannot be read: {getattr(err, 'strerror', err)}") from None


class _Reader:
    """Walks over a header in memory."""

    def __init__(self, path: Path, data: mmap.mmap) -> None:
        self._path = path
        self._data = data
        self._at = len(_MAGIC)
        self._numbers, self._strings = _MAX_NUMBERS, _MAX_STRINGS  # that are left

    def header(self) -> Header:
        """Read what stands before the list of tensors.

        Raises
        ------
        ScopeError
            If the file is damaged, or ends too early.
        """
        try:
            self._check_version(self._scalar("I"))
            n_tensors, n_pairs = self._scalar("Q"), self._scalar("Q")
            if n_pairs > _MAX_PAIRS:
                raise self._damaged(f"it claims to have {n_pairs} values in its header")
            pairs = (self._pair() for _ in range(n_pairs))
            metadata = {key: value for key, value in pairs if key and value is not None}
        except struct.error:
            raise self._truncated() from None
        return Header(self._path, n_tensors, metadata, self._at)

    def layout(self) -> Layout:
        """Read the list of tensors too, for where their data lies. Raises as `header`."""
        header, tensors = self._tensors()
        alignment = header.metadata.get("general.alignment", _ALIGNMENT)
        if not isinstance(alignment, int) or alignment < 1:
            raise self._damaged(f"the alignment is {alignment!r}")
        start = -(-self._at // alignment) * alignment
        return Layout(self._at, tuple(sorted(start + offset for _, offset in tensors)))

    def names(self) -> list[str]:
        """Read the names of the tensors. Raises as `header`."""
        return [name or "" for name, _ in self._tensors()[1]]

    def _tensors(self) -> tuple[Header, list[tuple[str | None, int]]]:
        header = self.header()
        if header.n_tensors > _MAX_TENSORS:
            raise self._damaged(f"it claims to have {header.n_tensors} tensors")
        try:
            return header, [self._tensor() for _ in range(header.n_tensors)]
        except struct.error:
            raise self._truncated() from None

    def _truncated(self) -> ScopeError:
        return ScopeError(
            f"{self._path} is truncated: the file ends within its header; download it again"
        )

    def _damaged(self, why: str) -> ScopeError:
        return ScopeError(f"{self._path} is damaged: {why}; download it again")

    def _tensor(self) -> tuple[str | None, int]:
        """Return the name of a tensor, and where its data lies behind the first one's."""
        name = self._text(self._scalar("Q"), _KEPT_KEY)
        n_dimensions = self._scalar("I")
        if n_dimensions > _MAX_DIMENSIONS:
            raise self._damaged(f"a tensor of {n_dimensions} dimensions")
        self._skip(8 * n_dimensions)
        self._scalar("I")  # its type
        return name, int(self._scalar("Q"))

    def _check_version(self, version: int) -> None:
        if version in _VERSIONS:
            return
        if version >> 16:  # a small number in the other byte order
            raise ScopeError(f"{self._path} is a big-endian GGUF: this build reads little-endian")
        raise ScopeError(
            f"{self._path} is of GGUF version {version}, this build reads {_VERSIONS}: convert it"
        )

    def _pair(self) -> tuple[str | None, Any]:
        n = self._scalar("Q")
        if n == 0:  # as where a file was filled up with zeros
            raise self._damaged("a value without a name in its header")
        key, kind = self._text(n, _KEPT_KEY), self._scalar("I")
        if key in _TEXTS and kind != _STRING:
            raise self._damaged(f"{key} is no text")
        return key, self._value(kind)

    def _value(self, kind: int) -> Any:
        if kind == _STRING:
            return self._text(self._scalar("Q"), _KEPT_STRING)
        if kind == _ARRAY:
            return self._array(self._scalar("I"), self._scalar("Q"))
        return self._scalar(self._format(kind))

    def _array(self, kind: int, n: int) -> list[Any] | None:
        if kind == _STRING:
            self._skip_strings(n)
            return None
        fmt = self._format(kind)
        size = n * struct.calcsize(f"<{fmt}")
        if n > min(_KEPT_ARRAY, self._numbers):
            self._skip(size)
            return None
        values = struct.unpack_from(f"<{n}{fmt}", self._data, self._at)
        self._at += size
        self._numbers -= n
        return list(values)

    def _format(self, kind: int) -> str:
        try:
            return _SCALARS[kind]
        except KeyError:
            raise self._damaged(f"unknown value type {kind} in its header") from None

    def _scalar(self, fmt: str) -> Any:
        (value,) = struct.unpack_from(f"<{fmt}", self._data, self._at)
        self._at += struct.calcsize(f"<{fmt}")
        return value

    def _text(self, n: int, kept: int) -> str | None:
        start = self._at
        self._skip(n)
        if n > kept:
            return None
        return self._data[start : self._at].decode("utf-8", errors="replace")

    def _skip_strings(self, n: int) -> None:
        self._strings -= n
        if self._strings < 0:
            raise self._damaged(f"it claims to have more than {_MAX_STRINGS} texts in its header")
        length, at, end = struct.Struct("<Q").unpack_from, self._at, len(self._data)
        for _ in range(n):
            at += 8 + length(self._data, at)[0]
            if at > end:
                raise struct.error("string beyond the end of the file")
        self._at = at

    def _skip(self, n_bytes: int) -> None:
        self._at += n_bytes
        if self._at > len(self._data):
            raise struct.error("value beyond the end of the file")
