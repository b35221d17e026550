"""Tokenizing as llama.cpp does it, but for texts that make it throw, crash or take minutes."""

from __future__ import annotations

import ctypes
import json
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from gguf import GGUFWriter, TokenType

from scope_cpp.native import kv_evict
from scope_cpp.native.library import llama_cpp
from scope_cpp.reference.tiny_model import add_vocabulary, write_file
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


ROOT = Path(__file__).resolve().parents[2]
CONTROL = ["<|a|>", "<|ab|>", "|>", "<|assistant|>", "<mask>", "<|endoftext|>"]


def write_control_tokens(path: Path, name: str) -> Path:
    """The tiny vocabulary and more control tokens.

    For a model of the name phi-3 llama.cpp has some of them take the space behind them along.
    """
    writer = GGUFWriter(path, "llama")
    writer.add_name(name)
    add_vocabulary(writer)
    kinds = [TokenType.CONTROL, TokenType.USER_DEFINED] * (len(CONTROL) // 2)
    more = {"tokens": CONTROL, "token_type": kinds, "scores": [0.0] * len(CONTROL)}
    for key, values in more.items():
        writer.kv_data[0][f"tokenizer.ggml.{key}"].value += values
    write_file(writer)
    return path


def write_byte_pairs(path: Path, pre: str) -> Path:
    """A byte-level vocabulary without merges that splits text as `pre` says."""
    writer = GGUFWriter(path, "llama")
    shown = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    pieces = [chr(byte) for byte in shown] + [chr(0x100 + n) for n in range(256 - len(shown))]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(pieces)
    writer.add_token_merges(["a b"])
    write_file(writer)
    return path


def odd_texts() -> list[str]:
    """Texts made of control tokens, parts of them, spaces, and what only byte tokens express."""
    rng = random.Random(5)
    parts = [*CONTROL, "<s>", "</s>", "<|", "|", ">", " ", "  ", "\n", "\t", "x", "the", "é", "漢"]
    texts = ["".join(rng.choices(parts, k=rng.randrange(1, 40))) for _ in range(300)]
    return [*texts, "", "\n" * 3000, "漢" * 1000, "<|a|>" * 500, "<|assistant|>  " * 300]


def test_equals_stock_llama_cpp(tmp_path: Path) -> None:
    """What was made linear in patches/ gives the tokens that it gave before."""
    library = os.environ.get("SCOPE_STOCK_LIB")
    if not library:
        pytest.skip("no unpatched libllama: set SCOPE_STOCK_LIB to the folder it lies in")
    paths = [write_control_tokens(tmp_path / f"{name}.gguf", name) for name in ("plain", "phi-3")]
    paths.append(write_byte_pairs(tmp_path / "bytes.gguf", "falcon"))
    texts = odd_texts()
    result = subprocess.run(
        [sys.executable, "-m", "tests.native.stock_tokenize", *map(str, paths)],
        input=json.dumps(texts),
        cwd=ROOT,
        env=os.environ | {"LLAMA_CPP_LIB_PATH": library, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr[-2000:]
    report = json.loads(result.stdout)
    assert not report["hooks"]
    for path, expected in zip(paths, report["tokens"], strict=True):
        vocabulary = Vocabulary(path)
        found = [
            kv_evict.tokenize(vocabulary.ptr, text.encode(), True, parse_special)
            for text in texts
            for parse_special in (False, True)
        ]
        llama_cpp.llama_model_free(vocabulary.model)
        assert found == expected


def test_a_long_run_of_one_kind_does_not_overflow_the_stack(tmp_path: Path) -> None:
    """std::regex recurses for each character; in a process of its own, which would be killed."""
    path = write_byte_pairs(tmp_path / "falcon.gguf", "falcon")
    code = (
        "import sys; from pathlib import Path\n"
        "from scope_cpp.native import kv_evict\n"
        "from tests.native.test_tokenize import Vocabulary\n"
        "vocabulary = Vocabulary(Path(sys.argv[1]))\n"
        "text = b'!' * 200_000\n"
        "print(len(kv_evict.tokenize(vocabulary.ptr, text, False, False)))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, str(path)], cwd=ROOT, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr[-500:]
    assert result.stdout == "200000\n"


def test_no_memory_for_a_stack_is_an_error(tmp_path: Path) -> None:
    """A limit of address space that the stack for a text of 64 MB does not fit into."""
    resource = pytest.importorskip("resource")
    path = write_byte_pairs(tmp_path / "falcon.gguf", "falcon")
    code = (
        "import resource, sys; from pathlib import Path\n"
        "from scope_cpp.errors import ScopeError\n"
        "from scope_cpp.native import kv_evict\n"
        "from tests.native.test_tokenize import Vocabulary\n"
        "vocabulary = Vocabulary(Path(sys.argv[1]))\n"
        "resource.setrlimit(resource.RLIMIT_AS, (2**34, 2**34))\n"
        "try: kv_evict.tokenize(vocabulary.ptr, b'a' * 2**26, False, False)\n"
        "except ScopeError as err: print(err)"
    )
    assert resource
    result = subprocess.run(
        [sys.executable, "-c", code, str(path)], cwd=ROOT, capture_output=True, text=True
    )
    assert result.stdout == "no memory to tokenize 67108864 bytes: give a shorter text\n"
