from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scope_cpp.engine.text import StopStrings, TextStream, Utf8Decoder
from scope_cpp.errors import UsageError

# few letters, so that stops overlap each other and themselves
TEXTS = st.text("ab", max_size=20)
STOPS = st.lists(st.text("ab", min_size=1, max_size=4), max_size=4)


def split(data: st.DataObject, whole: str | bytes) -> list[str | bytes]:
    """Cut `whole` anywhere, empty parts included."""
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=8)))
    return [whole[a:b] for a, b in zip([0, *cuts], [*cuts, len(whole)], strict=True)]


def whole_text_stop(text: str, stops: list[str]) -> tuple[str, str | None]:
    """Naive search: the first prefix of the text that ends in a stop string."""
    for end in range(len(text) + 1):
        hits = [stop for stop in stops if text[:end].endswith(stop)]
        if hits:
            longest = max(hits, key=len)
            return text[: end - len(longest)], longest
    return text, None


@settings(max_examples=500)
@given(st.data(), TEXTS, STOPS)
def test_stops_do_not_depend_on_the_split(data: st.DataObject, text: str, stops: list[str]) -> None:
    matcher = StopStrings(stops)
    shown = "".join(matcher.push(part) for part in split(data, text)) + matcher.finish()
    assert (shown, matcher.matched) == whole_text_stop(text, stops)


@given(st.data(), TEXTS, STOPS)
def test_what_is_shown_early_is_never_taken_back(
    data: st.DataObject, text: str, stops: list[str]
) -> None:
    final, _ = whole_text_stop(text, stops)
    matcher, shown = StopStrings(stops), ""
    for part in split(data, text):
        shown += matcher.push(part)
        assert final.startswith(shown)


@given(TEXTS, STOPS)
def test_no_more_is_held_back_than_could_begin_a_stop(text: str, stops: list[str]) -> None:
    matcher = StopStrings(stops)
    shown = matcher.push(text)
    if matcher.matched is None:
        held = text[len(shown) :]
        assert not held or any(s.startswith(held) and s != held for s in stops)


@pytest.mark.parametrize("parts", [["abbab"], ["ab", "bab"], list("abbab")])
def test_the_stop_that_is_complete_first_wins(parts: list[str]) -> None:
    matcher = StopStrings(["abba", "bb", "b"])
    assert "".join(map(matcher.push, parts)) == "a"
    assert matcher.matched == "b"


@pytest.mark.parametrize("parts", [["xaba"], ["xab", "a"], list("xaba")])
def test_of_stops_that_end_together_the_longest_wins(parts: list[str]) -> None:
    matcher = StopStrings(["ba", "aba"])
    assert "".join(map(matcher.push, parts)) == "x"
    assert matcher.matched == "aba"


def test_text_after_a_stop_is_dropped() -> None:
    matcher = StopStrings(["</s>"])
    assert matcher.push("one<") == "one"
    assert matcher.push("/s> two") == ""
    assert matcher.push("three") == ""
    assert matcher.finish() == ""
    assert matcher.matched == "</s>"


def test_a_false_start_is_shown() -> None:
    matcher = StopStrings(["abc"])
    assert matcher.push("xab") == "x"
    assert matcher.push("d") == "abd"
    assert matcher.push("ab") + matcher.finish() == "ab"
    assert matcher.matched is None


def test_an_empty_stop_is_refused() -> None:
    with pytest.raises(UsageError, match="empty"):
        StopStrings(["a", ""])


@given(st.data(), st.binary(max_size=30) | st.text(max_size=12).map(str.encode))
def test_utf8_does_not_depend_on_the_split(data: st.DataObject, whole: bytes) -> None:
    decoder = Utf8Decoder()
    text = "".join(decoder.push(part) for part in split(data, whole)) + decoder.finish()
    assert text == whole.decode(errors="replace")


def test_half_a_character_is_held_back() -> None:
    decoder = Utf8Decoder()
    euro = "€".encode()
    assert decoder.push(euro[:2]) == ""
    assert decoder.push(euro[2:]) == "€"


@given(st.data(), st.text("aé€😀", max_size=12), st.lists(st.text("aé€😀", min_size=1, max_size=3)))
def test_stream_matches_stops_over_characters_in_pieces(
    data: st.DataObject, text: str, stops: list[str]
) -> None:
    stream = TextStream(stops)
    pieces = split(data, text.encode())
    shown = "".join(stream.push(piece) for piece in pieces) + stream.finish()
    assert (shown, stream.matched) == whole_text_stop(text, stops)


def test_stream_replaces_an_unfinished_character_at_the_end() -> None:
    stream = TextStream(["x"])
    assert stream.push(b"a" + "€".encode()[:2]) == "a"
    assert stream.finish() == "\ufffd"
