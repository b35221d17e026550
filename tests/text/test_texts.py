"""What is a text, and what is said of what is none."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scope_cpp.texts import NotText, decode


@given(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])))
def test_texts_come_back_with_and_without_a_mark(text: str) -> None:
    text = text.removeprefix("\ufeff")
    assert decode(text.encode("utf-8")) == decode(text.encode("utf-8-sig")) == text


@pytest.mark.parametrize("text", ["", "a", "ä漢😀\n"])
@pytest.mark.parametrize("encoding", ["utf-16", "utf-32"])
def test_the_mark_of_another_encoding_names_it(text: str, encoding: str) -> None:
    with pytest.raises(NotText) as refused:
        decode(text.encode(encoding))
    assert str(refused.value) == f"it is {encoding.upper()}, not UTF-8: save it as UTF-8"


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"caf\xe9", "byte 3 is not UTF-8"),
        (b"\xef\xbb\xbf\xed\xa0\x80", "byte 3 is not UTF-8"),
        ("aä".encode("utf-16-le"), "byte 1 is NUL"),
        ("aä".encode("utf-16-be"), "byte 0 is NUL"),
        (b"a\0b", "byte 1 is NUL"),
    ],
)
def test_the_first_byte_that_is_wrong_is_named(data: bytes, what: str) -> None:
    with pytest.raises(NotText) as refused:
        decode(data)
    assert str(refused.value).startswith(what)
    assert str(refused.value).endswith(": save it as UTF-8")
