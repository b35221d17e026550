"""What can be wrong with a GGUF file: names, and functions that make the bytes."""

from __future__ import annotations

import copy
import random
import struct
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

from .gguf import ARRAY, BOOL, F32, I32, STRING, U32, U64, Array, Gguf, Pair, encode

NAN, INF = float("nan"), float("inf")

_WHOLE = (0, 1, 2, 3, 5, 7, 64, 255, 1000, 2**31 - 1, 2**31, 2**32 - 1)
_SIGNED = (-1, -5, -(2**31), 0, 2**31 - 1)
_REAL = (NAN, INF, -INF, -1.0, 0.0, 1e-40, 1e30, 3e38)
_TEXTS = (b"", b"\0", b"a\0b", b"\xff\xfe", b"\x1b[31mred\x1b]0;title\x07", b"one\nerror: two")
_LONG = b"x" * 100_000

# further keys that an architecture may have, with values that are at odds with the others
_ODD_KEYS: dict[str, tuple[int, tuple[Any, ...]]] = {
    "attention.key_length": (U32, (0, 1, 16, 2**32 - 1)),
    "attention.value_length": (U32, (0, 4, 2**32 - 1)),
    "attention.head_count_kv": (U32, (0, 1, 3, 8, 2**32 - 1)),
    "attention.sliding_window": (U32, (0, 1, 4, 2**32 - 1)),
    "attention.sliding_window_pattern": (U32, (0, 1, 2, 2**32 - 1)),
    "attention.max_alibi_bias": (F32, (8.0, NAN, -1.0)),
    "attention.clamp_kqv": (F32, (NAN, 0.0, -1.0)),
    "attention.scale": (F32, (NAN, INF, 0.0)),
    "attention.group_norm_groups": (U32, (0, 2**32 - 1)),
    "attention.causal": (BOOL, (False,)),
    "pooling_type": (U32, (0, 1, 4, 99)),
    "expert_count": (U32, (1, 8, 2**31, 2**32 - 1)),
    "expert_used_count": (U32, (1, 8, 2**32 - 1)),
    "expert_group_count": (U32, (1, 3, 2**32 - 1)),
    "rope.dimension_count": (U32, (0, 1, 3, 4, 1000, 2**32 - 1)),
    "rope.freq_base": (F32, (NAN, INF, 0.0, -1.0)),
    "rope.scaling.factor": (F32, (NAN, 0.0, -2.0)),
    "rope.scaling.type": (STRING, (b"", b"none", b"yarn", b"linear", b"longrope", b"no such")),
    "rope.scaling.attn_factor": (F32, (NAN, 0.0)),
    "rope.scaling.original_context_length": (U32, (0, 2**32 - 1)),
    "rope.dimension_sections": (ARRAY, (Array(I32, [0, 0, 0, 0]), Array(I32, [9999]))),
    "vocab_size": (U32, (0, 1, 2**31, 2**32 - 1)),
    "nextn_predict_layers": (U32, (1, 99, 2**32 - 1)),
    "leading_dense_block_count": (U32, (99, 2**32 - 1)),
    "use_parallel_residual": (BOOL, (True, False)),
    "tensor_data_layout": (STRING, (b"Meta AI original pth", b"no such")),
    "logit_scale": (F32, (NAN, 0.0)),
    "final_logit_softcapping": (F32, (NAN, 0.0, -1.0)),
}

_TOKENIZERS = (b"llama", b"gpt2", b"bert", b"t5", b"rwkv", b"plamo2", b"none", b"no_vocab", b"ugm")
_PRE = (b"", b"default", b"llama-bpe", b"qwen2", b"gpt-2", b"no such", b"deepseek-llm", b"tekken")
_FLAGS = (
    *("add_bos_token", "add_eos_token", "add_sep_token", "add_space_prefix"),
    *("remove_extra_whitespaces", "escape_whitespaces", "clean_spaces"),
)
_SPECIAL = (
    *("bos", "eos", "eot", "eom", "unknown", "padding", "seperator", "mask", "cls"),
    *("fim_pre", "prefix", "suffix"),
)

_TYPES = (0, 1, 2, 3, 4, 5, 6, 8, 10, 14, 16, 24, 26, 28, 30, 31, 34, 39, 40, 99, 2**31, 2**32 - 1)
_DIMS: tuple[list[int], ...] = ([], [0], [1], [2**63, 64], [2**64 - 1], [2**32, 2**32], [2**62, 4])
_DIMS += ([2, 2, 2, 2], [1, 1, 1, 1, 1])
_SAMPLE_TENSORS = 8


class Mutation(NamedTuple):
    """A damaged file: what is wrong with it, and its bytes when they are wanted."""

    name: str
    make: Callable[[], bytes]


def mutations(base: Gguf, seed: int = 0) -> Iterator[Mutation]:
    """Yield all mutations of a good file; the random ones are drawn with `seed`."""
    whole = encode(base)
    yield Mutation("unchanged", lambda: whole)
    yield from _cuts(base, whole)
    yield from _claims(base)
    for pair in base.pairs:
        yield from _values(base, pair)
    yield from _odd_keys(base)
    yield from _vocabularies(base)
    yield from _tensors(base)
    yield from _weights(base)
    yield from _flips(base, whole, random.Random(seed))


def _edit(base: Gguf, name: str, change: Callable[[Gguf], object]) -> Mutation:
    def make() -> bytes:
        file = copy.deepcopy(base)
        change(file)
        return encode(file)

    return Mutation(name, make)


def _field(base: Gguf, name: str, field: str, value: Any) -> Mutation:
    return Mutation(name, lambda: encode(replace(base, **{field: value})))


def _set(base: Gguf, key: str, kind: int, value: Any) -> Mutation:
    shown = repr(value)[:40]
    return _edit(base, f"{key}={shown}", lambda file: file.set(key, kind, value))


def _cuts(base: Gguf, whole: bytes) -> Iterator[Mutation]:
    start = base.header_size
    early = (0, 1, 3, 4, 7, 8, 16, 23, 24, 32, 40, 100, 400)
    late = (start - 400, start - 8, start - 1, start, start + 1, start + 100)
    for n in (*early, start // 2, *late, len(whole) // 2, len(whole) - 100, len(whole) - 1):
        yield Mutation(f"cut at {n}", partial(_cut, whole, max(0, n)))
    yield Mutation("bytes behind its end", lambda: whole + b"x" * 1000)


def _cut(whole: bytes, n: int) -> bytes:
    return whole[:n]


def _claims(base: Gguf) -> Iterator[Mutation]:
    for version in (0, 1, 2, 4, 255, 3 << 24, 2**32 - 1):
        yield _field(base, f"version {version}", "version", version)
    for what in ("n_pairs", "n_tensors"):
        own = len(base.pairs if what == "n_pairs" else base.tensors)
        for n in (0, 1, own - 1, own + 1, 10**6, 2**31, 2**63, 2**64 - 1):
            yield _field(base, f"{what} {n}", what, n)


def _values(base: Gguf, pair: Pair) -> Iterator[Mutation]:
    """Each key without its value, with extreme ones, and with one of another type."""
    key = pair.key.decode()
    yield _edit(base, f"without {key}", lambda file: file.remove(key))
    yield _edit(base, f"twice {key}", lambda file: file.pairs.append(copy.deepcopy(pair)))
    if isinstance(pair.value, Array):
        yield from _arrays(base, key, pair.value)
        yield _set(base, key, U32, 7)
        return
    kinds: dict[int, tuple[Any, ...]] = {STRING: (*_TEXTS, _LONG), F32: _REAL, BOOL: ()}
    for value in kinds.get(pair.kind, _WHOLE):
        yield _set(base, key, pair.kind, value)
    others = {STRING: b"five", F32: 5.5, I32: -5, U64: 2**40, BOOL: True, ARRAY: Array(U32, [1, 2])}
    others[U32] = 5
    for kind, value in others.items():
        if kind != pair.kind:
            yield _set(base, key, kind, value)
    if pair.kind == U32:  # a value for each layer
        for items in ([pair.value] * 99, [pair.value], [0] + [pair.value] * 4, []):
            yield _set(base, key, ARRAY, Array(U32, items))


def _arrays(base: Gguf, key: str, array: Array) -> Iterator[Mutation]:
    items, middle = array.items, len(array.items) // 2
    extremes: dict[int, tuple[Any, ...]] = {
        STRING: (*_TEXTS, b"<0x41>", b"\xe2\x96\x81"),
        F32: (NAN, INF, -INF),
        I32: (*_SIGNED, 3, 99),
        U32: _WHOLE,
    }
    yield _set(base, key, ARRAY, Array(array.kind, []))
    yield _set(base, key, ARRAY, Array(array.kind, items[: len(items) // 5]))
    yield _set(base, key, ARRAY, Array(array.kind, items * 2))
    for value in extremes.get(array.kind, ()):
        changed = [*items[:middle], value, *items[middle + 1 :]]
        yield _set(base, key, ARRAY, Array(array.kind, changed))
        yield _set(base, key, ARRAY, Array(array.kind, [value] * len(items)))
    if array.kind == STRING:
        huge = b"A" * 2_000_000
        yield _set(base, key, ARRAY, Array(STRING, [*items[:middle], huge, *items[middle + 1 :]]))
        reverse = [item[::-1] for item in items]
        yield _edit(
            base, f"{key} reversed", lambda f: f.set(key, ARRAY, Array(array.kind, reverse))
        )
    for kind in (9, 13, 77):
        yield _set(base, key, ARRAY, Array(4, [kind]))


def _odd_keys(base: Gguf) -> Iterator[Mutation]:
    for key, (kind, values) in _ODD_KEYS.items():
        for value in values:
            yield _set(base, f"{base.architecture}.{key}", kind, value)
    for name in (b"gpt2", b"mamba", b"deepseek2", b"clip", b"bert", b"gemma3", b"qwen2", b"t5"):
        yield _set(base, "general.architecture", STRING, name)
    for alignment in (0, 1, 3, 31, 64, 2**31, 2**32 - 1):
        yield _set(base, "general.alignment", U32, alignment)
    yield _set(base, "general.alignment", STRING, b"a")
    for kind, value in ((2, 3), (2, 65535), (STRING, b"three"), (I32, -3)):
        yield _set(base, "split.count", kind, value)
    for kind_of in (b"adapter", b"mmproj", b"imatrix", b"\x1b[2J"):
        yield _set(base, "general.type", STRING, kind_of)
    for text in _TEXTS:
        yield _set(base, "general.name", STRING, text)
        yield _set(base, "tokenizer.chat_template", STRING, text)
    for key in ("temp", "top_p", "top_k"):
        for value in (NAN, -3.0, 1e30):
            yield _set(base, f"general.sampling.{key}", F32, value)


def _vocabularies(base: Gguf) -> Iterator[Mutation]:
    n = base.find("tokenizer.ggml.tokens")
    n_tokens = len(n.value.items) if n is not None else 0
    for name in _TOKENIZERS:
        yield _set(base, "tokenizer.ggml.model", STRING, name)
    for name in _PRE:
        yield _set(base, "tokenizer.ggml.pre", STRING, name)
    for flag in _FLAGS:
        for value in (True, False):
            yield _set(base, f"tokenizer.ggml.{flag}", BOOL, value)
    for special in _SPECIAL:
        for token in (0, n_tokens - 1, n_tokens, 2**31, 2**32 - 1):
            yield _set(base, f"tokenizer.ggml.{special}_token_id", U32, token)
    for items in ([n_tokens], [-1], [2**31 - 1], list(range(n_tokens))):
        yield _set(base, "tokenizer.ggml.suppress_tokens", ARRAY, Array(I32, items))
    for blob in ([0] * 4, [255] * 64, [4, 0, 0, 0, 255, 255, 255, 255]):
        yield _set(base, "tokenizer.ggml.precompiled_charsmap", ARRAY, Array(0, blob))


def _tensors(base: Gguf) -> Iterator[Mutation]:
    step = max(1, len(base.tensors) // _SAMPLE_TENSORS)
    for i in range(0, len(base.tensors), step):
        label = base.tensors[i].name.decode()

        def edit(what: str, i: int = i, label: str = label, **fields: Any) -> Mutation:
            def change(file: Gguf) -> None:
                for name, value in fields.items():
                    setattr(file.tensors[i], name, value)

            return _edit(base, f"{label} {what}", change)

        for kind in _TYPES:
            yield edit(f"type {kind}", kind=kind)
        for dims in (*_DIMS, base.tensors[i].dims[::-1], [n + 1 for n in base.tensors[i].dims]):
            yield edit(f"dims {dims}", dims=dims)
        size = len(base.data)
        for offset in (0, 1, size - 32, size, 2**63, 2**64 - 1):
            yield edit(f"offset {offset}", offset=offset)
        for name in (b"", b"\0", b"x" * 64, _LONG, b"\x1b[31m", b"blk.99999.attn_q.weight"):
            yield edit(f"name {name[:20]!r}", name=name)
        tensors = base.tensors
        yield _field(base, f"without {label}", "tensors", tensors[:i] + tensors[i + 1 :])
        yield _field(base, f"twice {label}", "tensors", [*tensors, tensors[i]])


def _weights(base: Gguf) -> Iterator[Mutation]:
    """All weights, and a single one, of a value; in a file of quantized ones just other bytes."""
    n = len(base.data) // 4
    for value in (NAN, INF, 3e38, 0.0):
        word = struct.pack("<f", value)
        middle = 4 * (n // 2)
        one = base.data[:middle] + word + base.data[middle + 4 :]
        yield _field(base, f"all weights {value}", "data", word * n)
        yield _field(base, f"a weight {value}", "data", one)


def _flips(base: Gguf, whole: bytes, rng: random.Random, n: int = 120) -> Iterator[Mutation]:
    """Bits turned at random, half of them where the header says most."""
    for i in range(n):
        end = min(1500, base.header_size) if i % 2 else base.header_size
        n_bits = rng.choice((1, 1, 2, 8))
        places = [(rng.randrange(4, end), rng.randrange(8)) for _ in range(n_bits)]
        yield Mutation(f"flips {i}", partial(_flipped, whole, places))


def _flipped(whole: bytes, places: list[tuple[int, int]]) -> bytes:
    data = bytearray(whole)
    for at, bit in places:
        data[at] ^= 1 << bit
    return bytes(data)
