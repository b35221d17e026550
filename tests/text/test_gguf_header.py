from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGUFWriter
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from scope_cpp.engine.gguf_header import Header, read_header, read_layout
from scope_cpp.errors import ScopeError, UsageError
from tests.architectures.table import ARCHITECTURES, PLAIN


def write(
    path: Path, *, n_tensors: int = 1, version: int = 3, pairs: bytes = b"", n: int = 0
) -> Path:
    """Write a header by hand: `pairs` are `n` encoded key-value pairs."""
    path.write_bytes(b"GGUF" + struct.pack("<IQQ", version, n_tensors, n) + pairs)
    return path


def test_a_model(tiny_path: Path) -> None:
    header = read_header(tiny_path)
    assert header.path == tiny_path
    assert header.architecture == "llama"
    assert header.n_ctx_train == 256
    assert header.get("attention.head_count_kv") == 2
    assert header.get("no.such.key", 5) == 5
    assert header.n_tensors > 10


def test_every_kind_of_value(tmp_path: Path) -> None:
    writer = GGUFWriter(tmp_path / "kinds.gguf", "kinds")
    writer.add_uint8("u8", 200)
    writer.add_int8("i8", -100)
    writer.add_uint16("u16", 60000)
    writer.add_int16("i16", -30000)
    writer.add_uint32("u32", 4_000_000_000)
    writer.add_int32("i32", -2_000_000_000)
    writer.add_uint64("u64", 2**63)
    writer.add_int64("i64", -(2**62))
    writer.add_float32("f32", 0.5)
    writer.add_float64("f64", 0.1)
    writer.add_bool("yes", True)
    writer.add_string("text", "größe")
    writer.add_array("few", [1, 2, 3])
    writer.add_array("many", list(range(5000)))
    writer.add_array("words", ["a", "bc", ""])
    writer.add_string("last", "found")
    writer.add_tensor("w", np.zeros(4, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    found = dict(read_header(tmp_path / "kinds.gguf").metadata)
    assert found.pop("general.architecture") == "kinds"
    assert found == {
        "u8": 200,
        "i8": -100,
        "u16": 60000,
        "i16": -30000,
        "u32": 4_000_000_000,
        "i32": -2_000_000_000,
        "u64": 2**63,
        "i64": -(2**62),
        "f32": 0.5,
        "f64": 0.1,
        "yes": True,
        "text": "größe",
        "few": [1, 2, 3],
        "last": "found",
    }


def refusal(path: Path, kind: type[ScopeError] = ScopeError) -> str:
    with pytest.raises(ScopeError) as err:
        read_header(path)
    assert type(err.value) is kind
    message = str(err.value)
    assert str(path) in message
    assert "\n" not in message
    return message


def test_missing(tmp_path: Path) -> None:
    assert "does not exist" in refusal(tmp_path / "none.gguf", UsageError)


def test_directory(tmp_path: Path) -> None:
    assert "directory" in refusal(tmp_path, UsageError)


def test_a_pipe_does_not_hang(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert "regular" in refusal(tmp_path / "pipe", UsageError)


def test_unreadable(tiny_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    assert "Permission denied" in refusal(tiny_path, UsageError)


def test_a_name_with_nul() -> None:
    with pytest.raises(UsageError):
        read_header("a\0b.gguf")


def test_not_a_gguf(tmp_path: Path) -> None:
    path = tmp_path / "page.gguf"
    path.write_text("<!DOCTYPE html>")
    assert "not a GGUF" in refusal(path)
    path.write_bytes(b"")
    assert "it is empty" in refusal(path)


@pytest.mark.parametrize("version", [0, 1, 4, 99])
def test_unknown_version(tmp_path: Path, version: int) -> None:
    assert f"version {version}" in refusal(write(tmp_path / "v.gguf", version=version))


def test_big_endian(tmp_path: Path) -> None:
    assert "big-endian" in refusal(write(tmp_path / "b.gguf", version=3 << 24))


def test_vocabulary_only(tmp_path: Path) -> None:
    assert "vocabulary only" in refusal(write(tmp_path / "v.gguf", n_tensors=0))


def test_a_first_part_without_tensors_is_no_vocabulary(tmp_path: Path) -> None:
    key = b"split.count"
    pair = struct.pack("<Q", len(key)) + key + struct.pack("<IH", 2, 3)
    header = read_header(write(tmp_path / "s.gguf", n_tensors=0, pairs=pair, n=1))
    assert header.metadata == {"split.count": 3}


def test_unknown_value_type(tmp_path: Path) -> None:
    pair = struct.pack("<Q", 1) + b"k" + struct.pack("<I", 77)
    assert "value type 77" in refusal(write(tmp_path / "k.gguf", pairs=pair, n=1))


def text(value: bytes) -> bytes:
    return struct.pack("<Q", len(value)) + value


def pair(key: bytes, kind: int, value: bytes) -> bytes:
    return text(key) + struct.pack("<I", kind) + value


def array(kind: int, n: int, values: bytes = b"") -> bytes:
    return struct.pack("<IQ", kind, n) + values


U32, STRING, ARRAY = 4, 8, 9
IMPOSSIBLE = {
    "2^63 values": (b"", 2**63, "claims to have 9223372036854775808 values"),
    "a value without a name": (pair(b"", U32, bytes(4)), 1, "a value without a name"),
    "2^61 texts": (pair(b"k", ARRAY, array(STRING, 2**61)), 1, "more than 8388608 texts"),
    "too many texts in all": (
        pair(b"a", ARRAY, array(STRING, 8, bytes(64))) + pair(b"b", ARRAY, array(STRING, 2**23)),
        2,
        "more than 8388608 texts",
    ),
    "2^61 numbers": (pair(b"k", ARRAY, array(U32, 2**61)), 1, "truncated"),
    "a text of 2^63 bytes": (pair(b"k", STRING, struct.pack("<Q", 2**63)), 1, "truncated"),
    "an array of arrays": (pair(b"k", ARRAY, array(ARRAY, 1, array(U32, 1))), 1, "value type 9"),
}


@pytest.mark.parametrize("name", IMPOSSIBLE)
def test_what_no_model_has(tmp_path: Path, name: str) -> None:
    """Refused at once, although a gigabyte follows that could be read as almost anything."""
    pairs, n, phrase = IMPOSSIBLE[name]
    path = write(tmp_path / "k.gguf", pairs=pairs, n=n)
    os.truncate(path, 1 << 30)
    assert phrase in refusal(path)


def described(arch: str, keys: dict[str, Any]) -> Header:
    """What the header of a model of the table says."""
    named = {f"{arch}.{key}": value for key, value in keys.items()}
    return Header(Path("m.gguf"), 1, {"general.architecture": arch} | named, 0)


def test_models_have_attention() -> None:
    for name, entry in ARCHITECTURES.items():
        assert described(entry.arch or name, {**PLAIN, **entry.keys}).no_attention is None, name


@pytest.mark.parametrize(
    ("arch", "key", "value"),
    [
        ("jamba", "attention.head_count_kv", [0, 0, 0, 0]),
        ("lfm2", "attention.head_count_kv", [0, 0, 0, 0, 2]),  # of four layers
        ("granitehybrid", "attention.head_count_kv", 0),
        ("kimi-linear", "attention.head_count_kv", [0, 0, 0, 0]),
        ("deci", "attention.head_count_kv", [0, 0, 0, 0, 0, 0]),
        ("qwen35", "full_attention_interval", 5),
    ],
)
def test_a_model_without_attention_that_should_have_some(arch: str, key: str, value: Any) -> None:
    keys = {**PLAIN, **ARCHITECTURES[arch].keys, key: value}
    assert key in str(described(arch, keys).no_attention)


def test_no_layer_with_attention_is_refused_by_that(tmp_path: Path) -> None:
    pairs = pair(b"general.architecture", STRING, text(b"jamba"))
    pairs += pair(b"jamba.attention.head_count_kv", ARRAY, array(U32, 2, bytes(8)))
    path = write(tmp_path / "k.gguf", pairs=pairs, n=2)
    assert refusal(path) == (
        f"{path} has no layer with attention (jamba: attention.head_count_kv is 0 in all layers), "
        "and llama.cpp can't run it: convert it anew, or give another model"
    )


@pytest.mark.parametrize("length", [0, 2**31, 2**32 - 1])
def test_a_training_length_that_is_none(tmp_path: Path, length: int) -> None:
    pairs = pair(b"general.architecture", STRING, text(b"llama"))
    pairs += pair(b"llama.context_length", U32, struct.pack("<I", length))
    path = write(tmp_path / "k.gguf", pairs=pairs, n=2)
    assert f"trained on {length} tokens" in refusal(path)


def test_long_texts_and_many_numbers_are_left_out(tmp_path: Path) -> None:
    pairs = [
        pair(b"long", STRING, text(b"x" * 5000)),
        pair(b"k" * 300, U32, bytes(4)),
        pair(b"short", STRING, text(b"x" * 4096)),
        *(pair(b"n%d" % i, ARRAY, array(0, 4096, bytes(4096))) for i in range(300)),
    ]
    found = read_header(write(tmp_path / "k.gguf", pairs=b"".join(pairs), n=len(pairs))).metadata
    assert set(found) == {"short", *(f"n{i}" for i in range(256))}  # a million numbers


LAYOUTS = {
    "dimensions": (b"", text(b"w") + struct.pack("<I", 2**31), "a tensor of 2147483648 dimensions"),
    "alignment 0": (pair(b"general.alignment", U32, bytes(4)), b"", "the alignment is 0"),
    "alignment that is a text": (
        pair(b"general.alignment", STRING, text(b"a")),
        b"",
        "the alignment is 'a'",
    ),
    "cut off": (b"", text(b"w"), "truncated"),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_layout_that_is_none(tmp_path: Path, name: str) -> None:
    pairs, tensors, phrase = LAYOUTS[name]
    n_tensors = 1 if tensors else 0
    path = write(
        tmp_path / "k.gguf", n_tensors=n_tensors, pairs=pairs + tensors, n=1 if pairs else 0
    )
    with pytest.raises(ScopeError, match=phrase):
        read_layout(path)


def test_more_tensors_than_any_model_has(tmp_path: Path) -> None:
    path = write(tmp_path / "k.gguf", n_tensors=2**40)
    os.truncate(path, 1 << 30)
    with pytest.raises(ScopeError, match="claims to have 1099511627776 tensors"):
        read_layout(path)


def test_cut_off_anywhere_in_the_header(tiny_path: Path, tmp_path: Path) -> None:
    whole = tiny_path.read_bytes()
    end = whole.index(b"tokenizer.chat_template")  # a key among the last
    path = tmp_path / "cut.gguf"
    for n in [*range(4, 200), *range(200, end, 211)]:
        path.write_bytes(whole[:n])
        assert "truncated" in refusal(path)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200)
@given(st.lists(st.tuples(st.integers(4, 3000), st.integers(0, 255)), min_size=1, max_size=8))
def test_damage_is_refused_or_read_but_never_crashes(
    tiny_path: Path, tmp_path: Path, damage: list[tuple[int, int]]
) -> None:
    data = bytearray(tiny_path.read_bytes()[:20000])
    for at, value in damage:
        data[at] = value
    path = tmp_path / "damaged.gguf"
    path.write_bytes(data)
    try:
        header = read_header(path)
    except ScopeError as err:
        assert "\n" not in str(err)
    else:
        assert isinstance(header.metadata, dict)
