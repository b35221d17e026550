"""Where a stream of Markdown can be cut.

A `Splitter` takes text in any chunks and yields units: a top-level block, an item of a top-level
list, or a line of a fenced code block. A unit is yielded when nothing that follows can change it,
so it can be printed for good. What is yielded depends on the text only, not on the chunks.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import pairwise, takewhile

from markdown_it import MarkdownIt

# Larger units are cut, so that the cost of a stream grows with its length only
LONGEST_TEXT = 4_000
LONGEST = 16_000
# A paragraph is cut earlier than that where no emphasis, code or link is open
_STEP = 32
_OPEN = re.compile(r"\*(?=\S)|(?<!\w)_(?=\S)|`|~~|\[[^\]]*$")
_BLANK = re.compile(r"[ \n]")
# Characters that are looked at first
_WINDOW = 250
# what stands before the rest of a line that was cut, so that it does not begin a block
_GUARD = "x"

_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})[ \t]*([^\s`]*)")
_BLANK_LINES = re.compile(r"(?:[ \t]*\n)+")


@dataclass(frozen=True)
class Unit:
    """A piece that is rendered by itself.

    Attributes
    ----------
    text
        Its source.
    kind
        ``"text"`` (a paragraph), ``"block"`` (anything else), ``"item"`` of a list, ``"open"`` and
        ``"close"`` (fences), ``"code"`` (a line between them) or ``"thought"`` (a line).
    gap
        Whether a blank line comes before it.
    language
        Of code.
    continues, cut
        Whether it goes on where the unit before it was cut; whether the next one will.
    """

    text: str
    kind: str
    gap: bool = False
    language: str = ""
    continues: bool = False
    cut: bool = False


@lru_cache(maxsize=1)
def parser() -> MarkdownIt:
    """CommonMark with tables, less what would swallow text: HTML and link references.

    A line of dashes below a text is a rule and not a heading, as it is meant in chats.
    """
    markdown = MarkdownIt("commonmark", {"html": False}).enable(["table", "strikethrough"])
    return markdown.disable(["reference", "html_block", "html_inline", "lheading"])


class Lines:
    """Cut a stream into its lines; longer ones are cut at the end of a word.

    Parameters
    ----------
    kind
        Of the units.
    longest
        Characters of a line.
    """

    def __init__(self, kind: str = "thought", longest: int = LONGEST_TEXT) -> None:
        self._kind, self._longest = kind, longest
        self._text = ""
        self._cut = False

    def push(self, text: str) -> None:
        """Take the next piece."""
        self._text += text

    def units(self) -> Iterator[Unit]:
        """Yield the lines that are finished."""
        while True:
            line, newline, rest = self._text.partition("\n")
            if len(line) > self._longest:
                end = line[: self._longest].rfind(" ") + 1 or self._longest
                line, rest = line[:end], line[end:] + newline + rest
                newline = ""
            elif not newline:
                return
            self._text = rest
            yield Unit(line, self._kind, continues=self._cut, cut=not newline)
            self._cut = not newline

    def finish(self) -> Iterator[Unit]:
        """Yield what is left; the stream has ended."""
        yield from self.units()
        if self._text or self._cut:
            yield Unit(self._text, self._kind, continues=self._cut)
            self._text, self._cut = "", False

    def rest(self) -> Unit | None:
        """Return what is unfinished, None if that is nothing."""
        unfinished = self._text or self._cut
        return Unit(self._text, self._kind, continues=self._cut) if unfinished else None


class Splitter:
    """Cut a stream of Markdown into units.

    Parameters
    ----------
    gap
        Whether the first unit has a gap too.
    early
        Characters of a paragraph after which it is cut where that does no harm.
    """

    def __init__(self, gap: bool = False, early: int = LONGEST_TEXT) -> None:
        self._text = ""
        self._fence = ""  # what opened the code block that is open
        self._language = ""
        self._last = Unit("", "text") if gap else None
        self._early = self._next_try = early
        self._cut = self._in_line = False
        self._found: list[tuple[int, str]] = []  # lengths and kinds of what is finished

    def push(self, text: str) -> None:
        """Take the next piece."""
        self._text += text

    def units(self) -> Iterator[Unit]:
        """Yield what is finished."""
        return self._units(final=False)

    def finish(self) -> Iterator[Unit]:
        """Yield what is left; the stream has ended."""
        return self._units(final=True)

    def rest(self) -> Unit | None:
        """Return what is unfinished, None if that is nothing."""
        if self._fence:
            return self._unit(self._text, "code", self._language) if self._text else None
        text = self._text
        if not self._in_line:
            text = _BLANK_LINES.sub("", text, count=1) if self._starts_blank() else text
            if not text.strip():
                return None
        blocks = self._outline(text[:LONGEST])
        return self._unit(text, "open" if blocks[0].kind == "fence" else blocks[0].kind)

    def _units(self, final: bool) -> Iterator[Unit]:
        while True:
            unit = self._code_line(final) if self._fence else self._block(final)
            if unit is None:
                return
            self._last, self._cut = unit, unit.cut
            yield unit

    def _unit(self, text: str, kind: str, language: str = "", cut: bool = False) -> Unit:
        unit = Unit(text, kind, language=language, continues=self._cut, cut=cut)
        return replace(unit, gap=self._gap(unit))

    def _gap(self, unit: Unit) -> bool:
        if self._last is None or unit.continues or unit.kind in ("code", "close"):
            return False
        if self._last.kind == unit.kind == "item":
            return self._last.text.endswith("\n\n")
        return True

    def _code_line(self, final: bool) -> Unit | None:
        line, newline, rest = self._text.partition("\n")
        cut = len(line) > LONGEST_TEXT
        if cut:
            line, rest = line[:LONGEST_TEXT], line[LONGEST_TEXT:] + newline + rest
        elif not newline and not (final and line):
            return None
        self._text = rest
        if not self._cut and _closes(line, self._fence):
            self._fence = ""
            return self._unit(line, "close")
        return self._unit(line, "code", self._language, cut)

    def _block(self, final: bool) -> Unit | None:
        """Take the first block, or None if what follows may still belong to it."""
        if self._found:
            return self._take(*self._found.pop(0))
        if not self._in_line and self._starts_blank():
            self._text = _BLANK_LINES.sub("", self._text, count=1)
        early = self._early_end()
        if early is not None:
            return self._take(early, "text", cut=True)
        if self._text.find("\n", 0, LONGEST_TEXT) < 0 and len(self._text) > LONGEST_TEXT:
            return self._cut_off("text", LONGEST_TEXT)
        whole = self._text if final else self._text[: self._text.rfind("\n") + 1]
        if not (whole.strip() or (final and self._in_line)):
            self._text = "" if final else self._text
            return None
        blocks = self._first_blocks(whole)
        first = blocks[0]
        if first.kind == "fence":
            return self._open_fence()
        longest = LONGEST_TEXT if first.kind == "text" else LONGEST
        if first.end > longest or (len(blocks) == 1 and len(whole) > longest):
            return self._cut_off(first.kind, longest)
        if len(blocks) == 1 and not final:
            return None
        self._found = [
            (block.end - before.end, block.kind)
            for before, block in takewhile(
                lambda pair: pair[1].kind in ("item", "block"), pairwise(blocks[:-1])
            )
        ]
        return self._take(first.end, first.kind)

    def _early_end(self) -> int | None:
        """Return where a paragraph can be cut before it ends, so that nobody sees it."""
        while True:
            blank = _BLANK.search(self._text, self._next_try, LONGEST_TEXT)
            if blank is None:
                return None
            self._next_try = max(self._next_try + _STEP, blank.end())
            if self._can_be_cut(self._text[: blank.start()]):
                return blank.end()

    def _can_be_cut(self, text: str) -> bool:
        """Whether `text` is part of one paragraph, and whatever it opens it closes."""
        last_line = text[text.rfind("\n") + 1 :]
        if "|" in last_line or " " not in last_line.strip():
            return False  # it may be the head of a table, or only the mark of a list
        if [block.kind for block in self._outline(text)] != ["text"]:
            return False
        inline = parser().parseInline(text)[0].children or []
        return not any(_OPEN.search(part.content) for part in inline if part.type == "text")

    def _first_blocks(self, text: str) -> list[_Block]:
        """Return the first block and what follows it, looking no further than necessary."""
        size = _WINDOW
        while size < min(len(text), LONGEST):
            blocks = self._outline(text[: text.find("\n", size) + 1 or len(text)][:LONGEST])
            if len(blocks) > 1:
                return blocks
            size *= 4
        return self._outline(text[:LONGEST])

    def _outline(self, text: str) -> list[_Block]:
        """Return the units that begin in `text`, at least one."""
        guard = _GUARD if self._in_line else ""
        blocks = [replace(block, end=block.end - len(guard)) for block in _outline(guard + text)]
        return blocks or [_Block("text", len(text))]

    def _starts_blank(self) -> bool:
        return _BLANK_LINES.match(self._text) is not None

    def _open_fence(self) -> Unit:
        line, _, self._text = self._text.partition("\n")
        match = _FENCE.match(line)
        assert match is not None
        self._fence, self._language = match[1], match[2]
        self._next_try = self._early
        return self._unit(line, "open")

    def _cut_off(self, kind: str, longest: int) -> Unit:
        """Take part of a unit that is too long, to the end of a line or of a word."""
        window = self._text[:longest]
        return self._take(window.rfind("\n") + 1 or window.rfind(" ") + 1 or longest, kind, True)

    def _take(self, end: int, kind: str, cut: bool = False) -> Unit:
        text, self._text = self._text[:end], self._text[end:]
        unit = self._unit(text, kind, cut=cut)
        self._in_line = cut and not text.endswith("\n")
        self._next_try = self._early
        return unit


@dataclass(frozen=True)
class _Block:
    kind: str
    end: int  # offset in the text: where the next one starts


def _outline(text: str) -> list[_Block]:
    """Return the units that begin in `text`."""
    found: list[tuple[int, str]] = []
    for token in parser().parse(text):
        if token.map is None or token.nesting < 0:
            continue
        if token.type == "list_item_open" and token.level == 1:
            found.append((token.map[0], "item"))
        elif token.level == 0 and not token.type.endswith("_list_open"):
            kind = {"fence": "fence", "paragraph_open": "text"}.get(token.type, "block")
            found.append((token.map[0], kind))
    starts = [0]
    for line in text.split("\n"):
        starts.append(starts[-1] + len(line) + 1)
    ends = [starts[line] for line, _ in found[1:]] + [len(text)]
    return [_Block(kind, end) for (_, kind), end in zip(found, ends, strict=False)]


def _closes(line: str, fence: str) -> bool:
    mark = line.strip()
    indent = len(line) - len(line.lstrip(" "))
    return indent <= 3 and len(mark) >= len(fence) and set(mark) == {fence[0]}
