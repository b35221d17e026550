from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scope_cpp.engine.schema.regex import translate
from tests.schema.conftest import Allows

MATCHES = [
    ("^\\d{3}$", ["123"], ["12", "1234", "abc", "١٢٣"]),
    ("^https:\\/\\/x$", ["https://x"], ["https:\\/\\/x"]),
    ("b", ["b", "abc"], ["", "a"]),
    ("^ab", ["abc"], ["cab"]),
    ("ab$", ["cab"], ["ab\n", "abc"]),
    ("^a$|^b$", ["a", "b"], ["ab", "c"]),
    ("^(?:ab|c)+$", ["abcab"], ["ac"]),
    ("^(?<word>\\w+)-(?P<rest>\\W)$", ["a_1-!"], ["é-!", "a-é", "a-b"]),
    ("^a+?b*?c??$", ["aab", "a"], ["b"]),
    ("^[\\w-]+$", ["a-b"], ["a b"]),
    ("^[^\\d\\s]+$", ["ab-"], ["a1", "a b", "٣"]),
    ('^[^"\\\\]*$', ["", "a/b"], ['"', "a\\b"]),
    ("^[\\]a&&b[]+$", ["a]&[b"], ["c"]),
    ("^[a\\-c]+$", ["a-c"], ["b"]),
    ("^\\u0041\\x42\\u{43}$", ["ABC"], ["abc"]),
    ("^\\ud83d\\ude00$", ["😀"], ["x"]),
    ("^.$", ["é", "😀"], ["\n", "\u2028", "ab"]),
    ("^\\t[\\n\\b]$", ["\t\n", "\t\b"], ["\t\t"]),
    ("^\\S\\s$", ["x ", "é\u00a0"], ["\ufeffx", "  "]),
    ("^a{2,3}{$", ["aa{", "aaa{"], ["a{", "aaaa{"]),
    ("^\\p{Lu}\\P{Lu}$", ["Éa"], ["éa"]),
    ("^\\.\\*\\$\\^$", [".*$^"], ["a"]),
    ("^[\\x00-\\x1f]?a$", ["a", "\na"], ["ba"]),
    ("\\x01|b", ["b"], ["", "a"]),
]


@pytest.mark.parametrize(("pattern", "right", "wrong"), MATCHES)
def test_a_pattern_matches_what_it_does_in_both_languages(
    allows: Allows, pattern: str, right: list[str], wrong: list[str]
) -> None:
    schema = {"type": "string", "pattern": pattern}
    quoted = [json.dumps(text, ensure_ascii=False) for text in (*right, *wrong)]
    expected = [True] * len(right) + [False] * len(wrong)
    assert [allows(schema, text) for text in quoted] == expected


@pytest.mark.parametrize(
    ("pattern", "cause"),
    [
        ("(?=a)b", "looks around"),
        ("(?<!a)b", "looks around"),
        ("(a)\\1", "\\1 cannot"),
        ("\\bword", "\\b cannot"),
        ("a{4294967296}", "{4294967296} repeats more than 4294967295 times"),
        ("[\\x7a-a]", "'z-a' is no range"),
        ("\\Aab", "is not known"),
        ("(?i)a", "is not known"),
        ("[]a]", "begins with ]"),
        ("[^]", "begins with ]"),
        ("a{,3}", "write {0,3"),
        ("a**", "nothing to repeat"),
        ("+a", "nothing to repeat"),
        ("^*", "nothing to repeat"),
        ("a{3,2}", "at most fewer"),
        ("(a", "is missing"),
        ("a)", "too many"),
        ("[a", "is missing"),
        ("\\", "is not known"),
        ("\\ud83d", "surrogate"),
        ("\\u{110000}", "no character"),
    ],
)
def test_what_cannot_be_translated_is_named(pattern: str, cause: str) -> None:
    with pytest.raises(ValueError, match=re.escape(cause)):
        translate(pattern)


CLASSES = ["\\d", "\\W", "\\S", ".", '[^"]', "[\\\\a]", "[^a\\n]", "[\\x00-\\x21]", "a", '"', "\\n"]


@st.composite
def patterns(draw: Any) -> str:
    parts = draw(st.lists(st.sampled_from(CLASSES), min_size=1, max_size=4))
    repeats = st.sampled_from(["", "", "?", "*", "+", "{2}", "{1,3}"])
    body = "".join(f"(?:{part}){draw(repeats)}" for part in parts)
    return draw(st.sampled_from(["^%s$", "%s", "^%s|b", "(%s|a)+$"])) % body


@settings(max_examples=150)
@given(pattern=patterns(), texts=st.lists(st.text('"\\\n\tab1é٣ -', max_size=5), max_size=6))
def test_nothing_is_allowed_that_python_does_not_match(
    allows: Allows, pattern: str, texts: list[str]
) -> None:
    schema = {"type": "string", "pattern": pattern}
    for text in texts:
        if allows(schema, json.dumps(text, ensure_ascii=False)):
            assert re.search(pattern, text)
