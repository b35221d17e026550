"""Tokenizing as llama.cpp does it, but for texts that make it throw."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from gguf import GGUFWriter, TokenType

from scope_cpp.native import kv_evict
from scope_cpp.native.library import llama_cpp
from scope_cpp.reference.tiny_model import write_file
from tests.conftest import Tiny

TEXTS = [
    "",
    " ",
    "the thing and another",
    "Über 日本語 \U0001f600 ﬁ",
    "<s>is a piece</s>",
    "a\nb\tc\x00d",
    "x" * 3000,
]


class Vocabulary:
    def __init__(self, path: Path) -> None:
        params = llama_cpp.llama_model_default_params()
        params.vocab_only = True
        self.model = llama_cpp.llama_model_load_from_file(str(path).encode(), params)
        assert self.model
        self.ptr: Any = llama_cpp.llama_model_get_vocab(self.model)

    def tokenize(self, text: bytes, add_special: bool, parse_special: bool) -> list[int]:
        """Tokenize with llama_tokenize()."""
        ids = (ctypes.c_int32 * (len(text) + 8))()
        arguments = self.ptr, text, len(text), ids, len(ids), add_special, parse_special
        return list(ids[: llama_cpp.llama_tokenize(*arguments)])


@pytest.fixture(scope="module")
def complete(tiny: Tiny) -> Iterator[Vocabulary]:
    vocabulary = Vocabulary(tiny())
    yield vocabulary
    llama_cpp.llama_model_free(vocabulary.model)


@pytest.fixture(scope="module")
def letters(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Vocabulary]:
    """A vocabulary of six characters and nothing to write any other with."""
    path = tmp_path_factory.mktemp("letters") / "letters.gguf"
    writer = GGUFWriter(path, "llama")
    pieces = ["<unk>", "<s>", "</s>", "\u2581", *"abcde"]
    kinds = [TokenType.UNKNOWN, TokenType.CONTROL, TokenType.CONTROL] + [TokenType.NORMAL] * 6
    writer.add_tokenizer_model("llama")
    writer.add_token_list(pieces)
    writer.add_token_types(kinds)
    writer.add_token_scores([0.0] * len(pieces))
    writer.add_add_space_prefix(False)
    write_file(writer)
    vocabulary = Vocabulary(path)
    yield vocabulary
    llama_cpp.llama_model_free(vocabulary.model)


@pytest.mark.parametrize("text", TEXTS, ids=lambda text: repr(text[:12]))
@pytest.mark.parametrize("add_special", [False, True])
@pytest.mark.parametrize("parse_special", [False, True])
def test_equals_llama_cpp(
    complete: Vocabulary, text: str, add_special: bool, parse_special: bool
) -> None:
    raw = text.encode()
    tokens = kv_evict.tokenize(complete.ptr, raw, add_special, parse_special)
    assert tokens == complete.tokenize(raw, add_special, parse_special)
    assert bool(tokens) == bool(text or add_special)


def test_a_text_in_the_vocabulary(letters: Vocabulary) -> None:
    assert kv_evict.tokenize(letters.ptr, b"a bad cab", False, False) == [
        letters.tokenize(char, False, False)[0]
        for char in (b"a", b" ", b"b", b"a", b"d", b" ", b"c", b"a", b"b")
    ]


@pytest.mark.parametrize("text", ["x", "abc\n", "é", "a z", "\U0001f600"])
def test_a_text_outside_the_vocabulary(letters: Vocabulary, text: str) -> None:
    assert kv_evict.tokenize(letters.ptr, text.encode(), True, False) is None
    assert kv_evict.tokenize(letters.ptr, b"abc", False, False) == [4, 5, 6]


def test_a_trained_vocabulary_without_byte_tokens(shared_dir: Path) -> None:
    vocabulary = Vocabulary(shared_dir / "models" / "babyllama-tok105-f32.gguf")
    try:
        assert kv_evict.tokenize(vocabulary.ptr, "é\U0001f600".encode(), False, False) is None
        story = b"once upon a time"
        assert kv_evict.tokenize(vocabulary.ptr, story, False, False) == vocabulary.tokenize(
            story, False, False
        )
    finally:
        llama_cpp.llama_model_free(vocabulary.model)
