"""How a unit of Markdown looks: lines of styled text for a width."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any

from markdown_it.token import Token
from rich import markdown as rich_markdown
from rich.cells import chop_cells
from rich.console import Console, ConsoleOptions, RenderResult
from rich.segment import Segment
from rich.style import Style
from rich.syntax import Syntax
from rich.text import Text

from .blocks import Unit, parser

Line = list[Segment]

# Lines of code before a line that its colours may depend on
_CODE_CONTEXT = 20
# With less room than this, what is nested is shown as it was written
_LEAST_WIDTH = 10
_LEAST_COLUMN = 5
_DEEPEST = 16  # the parser drops what is nested deeper than 20

_THEME = "ansi_dark"


class Renderer:
    """Turn units into lines, in their order.

    Remembers what the next unit's look depends on: lines of code, and a line that was cut.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._code: deque[str] = deque(maxlen=_CODE_CONTEXT)
        self._carry: Text | None = None

    def finished(self, unit: Unit, width: int) -> list[Line]:
        """Return the lines of a unit that is printed for good.

        A line of code is one line, however long: the terminal wraps it, and a copy of it is whole.
        """
        if unit.kind == "code":
            lines = [self._segments(self._highlighted(unit))]
            self._code.append(unit.text)
            return lines
        if unit.kind in ("open", "close"):
            self._code.clear()
        lines = self.lines(unit, width)
        self._carry = None
        if unit.cut and not unit.text.endswith("\n"):
            blank = " " if unit.text.endswith(" ") else ""
            self._carry = Text.assemble(*((s.text, s.style or "") for s in lines.pop()), blank)
        return lines

    def lines(self, unit: Unit, width: int) -> list[Line]:
        """Return the lines of a unit, none wider than `width`."""
        if unit.kind == "code":
            return [self._segments(line) for line in _chopped(self._highlighted(unit), width)]
        options = self._console.options.update(width=width, height=None)
        lines = self._console.render_lines(self._renderable(unit, width), options, pad=False)
        lines = [_trimmed(line) for line in lines]
        while unit.kind != "thought" and lines and not lines[-1]:
            lines.pop()
        while unit.kind != "thought" and lines and not lines[0]:
            lines.pop(0)
        return [[], *lines] if unit.gap else lines

    def hint(self, text: str, width: int) -> list[Line]:
        """Return a line of minor importance; none if there is no text."""
        return [[Segment(chop_cells(text, width)[0], Style(dim=True))]] if text else []

    def _renderable(self, unit: Unit, width: int) -> Any:
        if unit.kind in ("open", "close"):
            return Text(unit.text, style="dim")
        if unit.kind == "thought":
            return self._carried(Text(unit.text, style="dim"))
        if unit.continues and unit.kind in ("text", "block"):
            return _Markdown(_paragraph(unit.text), self._carry)
        tokens = parser().parse(unit.text)
        if not _fits(tokens, width):
            return self._carried(Text(unit.text.strip("\n")))
        return _Markdown(tokens, self._carry)

    def _carried(self, text: Text) -> Text:
        return text if self._carry is None else Text.assemble(self._carry, text)

    def _highlighted(self, unit: Unit) -> Text:
        if not unit.language:
            return Text(unit.text)
        syntax = Syntax("", unit.language, theme=_THEME, background_color="default")
        text = syntax.highlight("\n".join((*self._code, unit.text)))
        lines = text.split("\n", allow_blank=True)
        if len(lines) <= len(self._code) or lines[len(self._code)].plain != unit.text:
            return Text(unit.text)  # a lexer that does not leave blanks and lines alone
        return lines[len(self._code)]

    def _segments(self, text: Text) -> Line:
        return [Segment(s.text, s.style) for s in text.render(self._console)]


def _chopped(text: Text, width: int) -> list[Text]:
    offsets, end = [], 0
    for part in chop_cells(text.plain, width)[:-1]:
        end += len(part)
        offsets.append(end)
    return list(text.divide(offsets))


def _paragraph(text: str) -> list[Token]:
    """Return the tokens of a text that is a paragraph whatever it begins with."""
    inline = parser().parseInline(text.strip("\n"))
    return [Token("paragraph_open", "p", 1), *inline, Token("paragraph_close", "p", -1)]


def _fits(tokens: Sequence[Token], width: int) -> bool:
    """Whether nesting and tables leave room for text."""
    room = least = width
    columns = 0
    for token in tokens:
        if token.type in ("blockquote_open", "list_item_open"):
            room -= 4
        elif token.type in ("blockquote_close", "list_item_close"):
            room += 4
        elif token.type == "tr_open":
            columns = 0
        elif token.type in ("th_open", "td_open"):
            columns += 1
            if columns * _LEAST_COLUMN > room:
                return False
        if token.level > _DEEPEST:
            return False
        least = min(least, room)
    return least == width or least >= _LEAST_WIDTH


class _Code(rich_markdown.CodeBlock):
    """Code inside of a list or a quote between its fences, or indented."""

    fence = info = ""

    @classmethod
    def create(cls, markdown: rich_markdown.Markdown, token: Token) -> rich_markdown.CodeBlock:
        code = cls(token.info.partition(" ")[0] or "text", _THEME)
        code.fence, code.info = token.markup, token.info
        return code

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        if self.fence:
            yield Text(self.fence + self.info, style="dim")
        code = str(self.text).rstrip("\n")
        if code:
            yield Syntax(
                code, self.lexer_name, theme=_THEME, background_color="default", word_wrap=True
            )
        if self.fence:
            yield Text(self.fence, style="dim")


class _Heading(rich_markdown.Heading):
    LEVEL_ALIGN = {f"h{n}": "left" for n in range(1, 7)}


class _ListItem(rich_markdown.ListItem):
    """An item whose number has its point."""

    def render_number(
        self, console: Console, options: ConsoleOptions, number: int, last_number: int
    ) -> RenderResult:
        numeral = f" {number}. "
        inner = options.update(width=options.max_width - len(numeral))
        for i, line in enumerate(console.render_lines(self.elements, inner, style=self.style)):
            yield Segment(" " * len(numeral) if i else numeral)
            yield from line
            yield Segment.line()


class _Paragraph(rich_markdown.Paragraph):
    """A paragraph, behind what was carried over to it."""

    carried: Text | None = None

    @classmethod
    def create(cls, markdown: rich_markdown.Markdown, token: Token) -> rich_markdown.Paragraph:
        paragraph = cls(markdown.justify or "left")
        if isinstance(markdown, _Markdown):
            paragraph.carried, markdown.carried = markdown.carried, None
        return paragraph

    def on_enter(self, context: rich_markdown.MarkdownContext) -> None:
        super().on_enter(context)
        if self.carried is not None:
            self.text.append_text(self.carried)


class _Rule(rich_markdown.HorizontalRule):
    """A line across the terminal."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield Text("─" * min(options.max_width, 40), style="dim")


class _Markdown(rich_markdown.Markdown):
    """Rich's Markdown of tokens that are parsed already."""

    elements = {
        **rich_markdown.Markdown.elements,
        "fence": _Code,
        "code_block": _Code,
        "heading_open": _Heading,
        "paragraph_open": _Paragraph,
        "hr": _Rule,
        "list_item_open": _ListItem,
    }

    def __init__(self, tokens: Sequence[Token], carried: Text | None = None) -> None:
        # not its constructor, which makes a parser: there is one of these in every frame
        self.markup, self.style = "", "none"
        self.code_theme = self.inline_code_theme = _THEME
        self.inline_code_lexer, self.justify, self.hyperlinks = None, None, False
        for token in tokens:
            if token.children:
                token.children = _plain(token.children)
        self.parsed = list(tokens)
        self.carried = carried


def _plain(tokens: Sequence[Token]) -> list[Token]:
    """Show where a link goes, keep line breaks, and write an image as it was written."""
    plain: list[Token] = []
    links: list[tuple[str, int]] = []
    for token in tokens:
        if token.type == "softbreak":
            plain.append(Token("hardbreak", "br", 0))
        elif token.type == "image":
            plain.append(_text(f"![{token.content}]({token.attrs.get('src', '')})"))
        elif token.type == "link_open":
            links.append((str(token.attrs.get("href", "")), len(plain)))
        elif token.type == "link_close":
            target, start = links.pop()
            if "".join(part.content for part in plain[start:]) != target:
                plain.append(_text(f" ({target})"))
        else:
            plain.append(token)
    return plain


def _text(content: str) -> Token:
    return Token("text", "", 0, content=content)


def _trimmed(line: Line) -> Line:
    """Drop blanks at the end of a line: a terminal that gets narrower would wrap them."""
    line = [segment for segment in line if not segment.control]
    while line:
        text = line[-1].text.rstrip(" \n")
        if text:
            return [*line[:-1], Segment(text, line[-1].style)]
        line = line[:-1]
    return line
