"""Markdown in pieces: what is shown depends on the text, not on how it comes."""

from __future__ import annotations

import io
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from scope_cli.chat.blocks import Lines, Splitter, Unit
from scope_cli.chat.frame import Frame, Styled
from scope_cli.chat.markdown import Renderer
from scope_cli.chat.screen import Rich
from scope_cli.chat.text import Thoughts

from scope_cpp.printable import Printable, printable

EARLY = 40

_PIECES = [*"ab1.  \n\n`*_->#|:[]()!~+\\<&;", "```", "\n- ", "\n1. ", "|---|", "    ", "日", "😀"]
markdown = st.lists(st.sampled_from([*_PIECES, "\n\n", "**", "> ", "word "]), max_size=60)


def plain(text: str, width: int, chunks: list[str] | None = None, early: int = EARLY) -> list[str]:
    console = Console(file=io.StringIO(), width=width, force_terminal=True, color_system=None)
    splitter, renderer = Splitter(early=early), Renderer(console)
    lines = []
    for chunk in [text] if chunks is None else chunks:
        splitter.push(chunk)
        for unit in splitter.units():
            lines += renderer.finished(unit, width)
        rest = splitter.rest()
        if rest is not None:
            shown = renderer.lines(rest, width)
            assert all(sum(part.cell_length for part in line) <= width for line in shown)
    for unit in splitter.finish():
        lines += renderer.finished(unit, width)
    return ["".join(part.text for part in line) for line in lines]


def cut(text: str, places: list[int]) -> list[str]:
    ends = sorted({place for place in places if place < len(text)})
    return [text[a:b] for a, b in zip([0, *ends], [*ends, len(text)], strict=True)]


@settings(max_examples=300, deadline=None)
@given(markdown.map("".join), st.lists(st.integers(0, 150)), st.sampled_from([7, 20, 80]))
def test_chunks_do_not_change_what_is_shown(text: str, places: list[int], width: int) -> None:
    assert plain(text, width, cut(text, places)) == plain(text, width)
    assert plain(text, width, list(text)) == plain(text, width)


@settings(max_examples=300, deadline=None)
@given(markdown.map("".join), st.sampled_from([7, 20, 80]))
def test_no_letter_is_lost_or_added(text: str, width: int) -> None:
    shown = "".join(plain(text, width))
    assert re.findall("[abword日😀]", shown) == re.findall("[abword日😀]", text)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.text("abcdefg", min_size=1, max_size=12), min_size=1), st.integers(12, 60))
def test_a_paragraph_looks_as_if_it_had_come_at_once(words: list[str], width: int) -> None:
    text = " ".join(words)
    assert plain(text, width, early=EARLY) == plain(text, width, early=10_000)
    assert " ".join(plain(text, width)) == text


@pytest.mark.parametrize("mark", ["-", "#", ">", "1.", "```", "|"])
def test_a_line_that_is_cut_does_not_begin_a_block(mark: str) -> None:
    for n in range(5, 20):
        text = "word " * n + f"{mark} and more words, " * 4 + "end"
        whole = plain(text, 30, early=10_000)
        assert plain(text, 30) == plain(text, 30, list(text)) == whole


def test_emphasis_is_not_cut_in_two() -> None:
    text = "word " * 7 + "**" + "strong " * 20 + "end** " + "word " * 7
    assert "*" not in "".join(plain(text, 30))


def kinds(text: str) -> list[str]:
    splitter = Splitter()
    splitter.push(text)
    return [unit.kind for unit in splitter.units()]


def test_what_can_be_printed_before_it_goes_on() -> None:
    assert kinds("one\n\ntwo\n") == ["text"]
    assert kinds("one\ntwo\n") == []
    assert kinds("| a |\n|---|\n" + "| row |\n" * 100) == []
    assert kinds("- one\n" + "  more\n" * 100) == []
    assert kinds("- one\n- two\n- thr") == ["item"]
    assert kinds("```py\nx = 1\ny") == ["open", "code"]
    assert kinds("```py\nx = 1\n```\n") == ["open", "code", "close"]
    assert kinds("| a |\n|---|\n| 1 |\n| 2 |\n") == []
    assert kinds("| a |\n|---|\n| 1 |\n\nend\n") == ["block"]


def test_a_stream_holds_little_of_what_it_was_given() -> None:
    items = ("- " + "item " * 20 + "\n") * 60
    for text in ("word " * 4_000, items, "```\n" + "code\n" * 4_000, "x" * 5_000):
        assert len(text) > 4_000
        splitter = Splitter(early=100)
        splitter.push(text)
        list(splitter.units())
        rest = splitter.rest()
        assert rest is None or len(rest.text) <= 4_000


def test_lists_tables_and_code() -> None:
    text = (
        "1. one\n2. two\n   - in\n\n| a | b |\n|---|---|\n| 1 | 日 |\n\n```python\nx = 1  # é\n```"
    )
    lines = plain(text, 40)
    assert lines[:3] == [" 1. one", " 2. two", "     • in"]
    assert lines[-3:] == ["```python", "x = 1  # é", "```"]
    assert any(re.fullmatch(r" ?1\s+日", line) for line in lines)


def test_where_a_link_goes_is_shown() -> None:
    assert plain("[bank](http://other.example)", 60) == ["bank (http://other.example)"]
    assert plain("![pic](a.png)", 60) == ["![pic](a.png)"]
    assert plain("<script>x</script>", 60) == ["<script>x</script>"]
    assert plain("[a]: http://b", 60) == ["[a]: http://b"]


def test_windows_newlines_in_two_pieces() -> None:
    whole = Printable()
    assert whole.push("a\r") + whole.push("\nb\r") + whole.finish() == "a\nb␍"


@given(st.text(max_size=40), st.lists(st.integers(0, 40)))
def test_control_characters_never_pass(text: str, places: list[int]) -> None:
    whole = Printable()
    shown = "".join(map(whole.push, cut(text, places))) + whole.finish()
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]", shown)
    assert shown == printable(text.replace("\r\n", "\n"))


@pytest.mark.parametrize("size", [1, 3, 100])
@pytest.mark.parametrize(
    ("text", "thought", "said"),
    [
        ("<think>\nhm\n</think>\n\nyes", "hm\n", "\n\nyes"),
        ("no <think>x</think>", "", "no <think>x</think>"),
        ("<thinker>", "", "<thinker>"),
        ("<think>a < b </thin", "a < b </thin", ""),
        ("  <thi", "", "  <thi"),
    ],
)
def test_thoughts(text: str, thought: str, said: str, size: int) -> None:
    parts = []
    thoughts = Thoughts()
    for start in range(0, len(text), size):
        parts += thoughts.push(text[start : start + size])
    parts += thoughts.finish()
    assert "".join(part.text for part in parts if part.thought) == thought
    assert "".join(part.text for part in parts if not part.thought) == said


@given(st.text("ab \n", max_size=80), st.lists(st.integers(0, 80)))
def test_lines_are_those_of_the_text(text: str, places: list[int]) -> None:
    lines = Lines(longest=10)
    units: list[Unit] = []
    for chunk in cut(text, places):
        lines.push(chunk)
        units += lines.units()
    units += lines.finish()
    joined = "".join(unit.text + ("" if unit.cut else "\n") for unit in units)
    assert joined.removesuffix("\n") == text.removesuffix("\n")


def drawn(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    from scope_cli import terminal

    sent: list[str] = []
    monkeypatch.setattr(terminal, "write", sent.append)
    return sent


def test_a_frame_leaves_alone_what_did_not_change(monkeypatch: pytest.MonkeyPatch) -> None:
    sent = drawn(monkeypatch)
    frame = Frame(reflows=True)
    one, two, three = (Styled(name, len(name)) for name in ("one", "two", "three"))
    frame.draw([], [one, two], 80)
    frame.draw([], [one, two], 80)
    assert len(sent) == 1
    frame.draw([], [one, three], 80)
    assert "one" not in sent[-1] and "three" in sent[-1]


@pytest.mark.parametrize(("reflows", "up"), [(True, "\x1b[4A"), (False, "\x1b[1A")])
def test_a_frame_is_found_again_in_a_narrower_terminal(
    monkeypatch: pytest.MonkeyPatch, reflows: bool, up: str
) -> None:
    sent = drawn(monkeypatch)
    frame = Frame(reflows)
    frame.draw([], [Styled("x" * 60, 60), Styled("y" * 30, 30)], 80)
    frame.draw([], [Styled("z", 1)], 20)
    assert up in sent[-1]


def test_frames_are_few_and_their_number_follows_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    sent = drawn(monkeypatch)
    now = 0.0
    screen = Rich(size=lambda: (80, 24), clock=lambda: now)
    screen.begin("waiting")
    for _ in range(1000):  # ten seconds
        now += 0.01
        screen.write("word ")
    assert 100 < len(sent) <= 152
    longest = max(map(len, sent))
    screen.end()
    assert longest < 1000
