"""Strangers' text: nothing of it is a command, and JSON of it is JSON."""

from __future__ import annotations

import json
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scope_cpp.errors import ScopeError, UsageError
from scope_cpp.json_text import json_text
from scope_cpp.printable import harmless, one_line, other_start, printable

ANY = st.text(st.characters())  # lone surrogates too


@given(ANY)
def test_no_control_character_is_left(text: str) -> None:
    for char in printable(text):
        assert char == "\n" or unicodedata.category(char) not in ("Cc", "Cs")


@given(ANY)
def test_what_is_harmless_stays_as_it_is(text: str) -> None:
    assert harmless(harmless(text)) == harmless(text)
    assert one_line(one_line(text)) == one_line(text)


@given(ANY)
def test_no_writing_direction_and_no_line_is_left(text: str) -> None:
    line = one_line(text, most=50)
    assert len(line) <= 50
    assert len(line.splitlines()) <= 1
    assert not set(line) & set("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2069")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("größe 日本 😀", "größe 日本 😀"),
        ("a\x1b[31mb\x07\x7f", "a␛[31mb␇␡"),
        ("\x9b2J", "\ufffd2J"),  # C1: what ESC [ is in one byte
        ("one\r\nerror: two", "one error: two"),
        ("one \u2028 two\x85three", "one two three"),
        ("a  b", "a  b"),  # a path's own blanks
        ("caf\udce9.gguf", "caf\ufffd.gguf"),
        ("x\u202egpj.exe", "x\ufffdgpj.exe"),
    ],
)
def test_one_line(text: str, shown: str) -> None:
    assert one_line(text) == shown


def test_a_long_text_keeps_its_ends() -> None:
    assert one_line("begin" + "x" * 5000 + "end", most=11) == "begin…xxend"


@pytest.mark.parametrize("kind", [ScopeError, UsageError])
def test_errors_are_harmless_wherever_they_end_up(kind: type[ScopeError]) -> None:
    assert str(kind("model \x1b]0;x\x07\nerror: y")) == "model ␛]0;x␇ error: y"


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | ANY,
    lambda inner: st.lists(inner) | st.dictionaries(ANY, inner),
)


@given(VALUES, st.sampled_from([None, 1]))
def test_json_is_valid_and_harmless(value: object, indent: int | None) -> None:
    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    text = json_text(value, indent)
    assert harmless(text) == text
    text.encode()
    found = json.loads(text, parse_constant=refuse)
    lenient = json.loads(json.dumps(value), parse_constant=lambda constant: None)
    assert found == lenient


@pytest.mark.parametrize(
    ("start", "told"),
    [
        (b"", "it is empty"),
        (b"# sc", "it begins with '# sc' instead of 'GGUF'"),
        (b"\x7fELF", "it begins with the bytes 7f 45 4c 46 instead of 'GGUF'"),
        (b"P", "it begins with 'P' instead of 'GGUF'"),
    ],
)
def test_what_a_file_begins_with(start: bytes, told: str) -> None:
    assert other_start(start, b"GGUF") == told
