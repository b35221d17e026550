"""Good files to make damaged ones of: architectures, and every kind of vocabulary."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

from scope_cpp.reference.shipped import MODEL
from scope_cpp.reference.tiny_model import ARCHITECTURES, write_tiny_model

from .gguf import ARRAY, BOOL, F32, I32, STRING, U32, Array, Gguf, parse

_NORMAL, _UNKNOWN, _CONTROL, _BYTE = 1, 2, 3, 6
_SHAPE = {"n_layer": 2, "head_dim": 16, "n_ff": 32}
_VOCABULARY = "tokenizer."


def bases(folder: Path) -> dict[str, Gguf]:
    """Return good files by name; `folder` is for what is written on the way."""
    found = {"reference": parse(MODEL.read_bytes())}
    for arch in ARCHITECTURES:
        found[arch] = _tiny(folder, arch=arch)
    found["experts"] = _tiny(folder, arch="llama", n_expert=4)
    found["quantized"] = _tiny(folder, arch="llama", weight_type="q8_0", head_dim=32)
    for name, rewrite in _TOKENIZERS.items():
        file = copy.deepcopy(found["llama"])
        tokens = file.find("tokenizer.ggml.tokens")
        assert tokens is not None
        n_tokens = len(tokens.value.items)
        file.pairs = [pair for pair in file.pairs if not pair.key.startswith(b"tokenizer.")]
        rewrite(file, n_tokens)
        found[name] = file
    return found


def _tiny(folder: Path, **fields: object) -> Gguf:
    shape = {**_SHAPE, **fields}
    return parse(write_tiny_model(folder / "tiny.gguf", **shape).read_bytes())


def _add(file: Gguf, model: bytes, tokens: list[bytes], kinds: list[int], n: int) -> None:
    """Add a vocabulary, with unused tokens up to `n`."""
    rest = n - len(tokens)
    tokens = tokens + [b"<unused%d>" % i for i in range(rest)]
    file.set("tokenizer.ggml.model", STRING, model)
    file.set("tokenizer.ggml.tokens", ARRAY, Array(STRING, tokens))
    file.set("tokenizer.ggml.token_type", ARRAY, Array(I32, kinds + [_CONTROL] * rest))


def _ids(file: Gguf, **ids: int) -> None:
    for name, token in ids.items():
        file.set(f"tokenizer.ggml.{name}_token_id", U32, token)


def byte_characters() -> list[str]:
    """Return the characters that GPT-2's vocabularies write the 256 bytes as."""
    shown = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = (byte for byte in range(256) if byte not in shown)
    code = {byte: byte for byte in shown} | {byte: 256 + i for i, byte in enumerate(others)}
    return [chr(code[byte]) for byte in range(256)]


def _bpe(file: Gguf, n: int) -> None:
    merges = ["t h", "th e", "i n", "a n", "Ġ t", "Ġt h", "Ġth e", "Ġ a"]
    merged = [merge.replace(" ", "") for merge in merges]
    tokens = [text.encode() for text in (*byte_characters(), *merged)] + [b"<|endoftext|>"]
    kinds = [_NORMAL] * (len(tokens) - 1) + [_CONTROL]
    _add(file, b"gpt2", tokens, kinds, n)
    file.set("tokenizer.ggml.pre", STRING, b"gpt-2")
    lines = [merge.encode() for merge in merges]
    file.set("tokenizer.ggml.merges", ARRAY, Array(STRING, lines))
    _ids(file, bos=len(tokens) - 1, eos=len(tokens) - 1)


def _wpm(file: Gguf, n: int) -> None:
    control = [b"[PAD]", b"[UNK]", b"[CLS]", b"[SEP]", b"[MASK]"]
    letters = [chr(code).encode() for code in range(0x21, 0x7F)]
    words = ["\u2581".encode() + text for text in (*letters, b"the", b"hi", b"once")]
    kinds = [_CONTROL] * 5 + [_NORMAL] * (len(letters) + len(words))
    _add(file, b"bert", control + letters + words, kinds, n)
    _ids(file, bos=2, eos=3, unknown=1, seperator=3, padding=0, cls=2, mask=4)


def _ugm(file: Gguf, n: int) -> None:
    control = [b"<pad>", b"</s>", b"<unk>"]
    letters = [chr(code).encode() for code in range(0x21, 0x7F)]
    words = ["\u2581".encode() + text for text in (b"", *letters, b"the", b"hi", b"once")]
    kinds = [_CONTROL, _CONTROL, _UNKNOWN] + [_NORMAL] * (len(letters) + len(words))
    _add(file, b"t5", control + letters + words, kinds, n)
    scores = [-float(i % 20) for i in range(n)]
    file.set("tokenizer.ggml.scores", ARRAY, Array(F32, scores))
    _ids(file, eos=1, unknown=2, padding=0)
    file.set("tokenizer.ggml.add_eos_token", BOOL, False)


def _rwkv(file: Gguf, n: int) -> None:
    tokens = [b"<s>"] + [b"\\x%02x" % byte for byte in range(256)] + [b" the", b"hi", b" once"]
    _add(file, b"rwkv", tokens, [_CONTROL] + [_NORMAL] * (len(tokens) - 1), n)
    _ids(file, bos=0, eos=0)


def _plamo2(file: Gguf, n: int) -> None:
    tokens = [b"<unk>"] + [b"<0x%02X>" % byte for byte in range(256)] + [b"the", b"hi", b"once"]
    kinds = [_UNKNOWN] + [_BYTE] * 256 + [_NORMAL] * 3
    _add(file, b"plamo2", tokens, kinds, n)
    file.set("tokenizer.ggml.scores", ARRAY, Array(F32, [-1.0] * n))
    _ids(file, bos=0, eos=0, unknown=0)


_TOKENIZERS: dict[str, Callable[[Gguf, int], None]] = {
    "bpe": _bpe,
    "wpm": _wpm,
    "ugm": _ugm,
    "rwkv": _rwkv,
    "plamo2": _plamo2,
}
