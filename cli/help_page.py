"""What ``--help`` prints: plain text that breaks between words at any width.

``--help`` shows the options that people use first, ``--help-all`` all of them in panels.
"""

from __future__ import annotations

import inspect
import os
import re
import shutil
import sys
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import typer

from . import derive

OUTPUT = "Output"

VARIABLES = (
    "Each option can also be set by an environment variable: SCOPE_ and its long name, such as "
    "SCOPE_BUDGET=2k for --budget 2k. An option on the command line wins."
)

# A line of text is not wider than this, and the names of options not than that
_WIDEST, _NAMES = 100, 30
# of an example: a flag with its value, or a word
_ARGUMENT = re.compile(r"(?:-\S+ (?!-))?(?:\"[^\"]*\"|'[^']*'|\S+)")

Entry = tuple[str, str]


def show_all(ctx: typer.Context, asked: bool) -> None:
    """Print all options and end; the callback of ``--help-all``."""
    if asked and not ctx.resilient_parsing:
        typer.echo(command_help(ctx.command, ctx, ()))
        raise typer.Exit


def command_help(command: Any, ctx: Any, first: Sequence[str]) -> str:
    """Return the help of a command.

    Parameters
    ----------
    command, ctx
    first
        Spellings of the options to show, in their order; none for all of them, in panels.
    """
    page = Page()
    arguments = [item for item in command.params if item.param_type_name == "argument"]
    page.usage(" ".join([ctx.command_path, "[OPTIONS]", *map(_usage, arguments)]))
    page.description(command.help or "")
    page.entries("Arguments", ((item.metavar, text_of(item)) for item in arguments))
    if first:
        by_name = {name: item for item in command.params for name in item.opts}
        shown = [by_name[name] for name in first]
        page.entries("Options", ((_short(item), text_of(item)) for item in shown))
        page.text(f"All options: {ctx.command_path} --help-all")
        return str(page)
    for panel, items in panels(command.get_params(ctx)).items():
        page.entries(panel, ((spelling(item), text_of(item)) for item in items))
    page.text(VARIABLES)
    return str(page)


def group_help(group: Any, ctx: Any) -> str:
    """Return the help of a command that has commands."""
    page = Page()
    page.usage(f"{ctx.command_path} COMMAND [OPTIONS]")
    page.description(group.help or "")
    page.entries("Commands", ((name, _summary(item)) for name, item in group.commands.items()))
    options = [item for item in group.params if item.param_type_name == "option"]
    page.entries("Options", ((spelling(item), text_of(item)) for item in options))
    page.text(f"Help of a command: {ctx.command_path} COMMAND --help")
    return str(page)


def panels(params: Iterable[Any]) -> dict[str, list[Any]]:
    """Return the options of a command by their panels."""
    found: dict[str, list[Any]] = {}
    for item in params:
        if item.param_type_name == "option":
            found.setdefault(item.rich_help_panel or OUTPUT, []).append(item)
    return found


def spelling(item: Any) -> str:
    """Return all names of an option, the short ones first, and what it takes."""
    return " ".join([", ".join(ordered(item.opts)), *metavar(item)])


def ordered(names: Iterable[str]) -> list[str]:
    """Return spellings, the short ones first, as llama.cpp's help has them."""
    return sorted(names, key=lambda name: name.startswith("--"))


def short_names(item: Any) -> list[str]:
    """Return the shortest name of an option, and its first long one; an argument's metavar."""
    if item.param_type_name == "argument":
        return [item.metavar]
    long = next(name for name in item.opts if name.startswith("--"))
    return list(dict.fromkeys((min(item.opts, key=len), long)))


def metavar(item: Any) -> list[str]:
    """Return what an option takes; nothing for a switch."""
    return [] if item.is_flag or not item.metavar else [derive.fill(item.metavar)]


def text_of(item: Any) -> str:
    """Return what an option does, and its default if it has one."""
    text, default = derive.fill(item.help or ""), default_of(item)
    return f"{text} Default: {default}." if default else text


def default_of(item: Any) -> str:
    """Return the default of an option, as the code has it."""
    if isinstance(item.show_default, str):
        return derive.fill(item.show_default)
    shown = item.show_default and item.default is not None and item.default is not False
    return str(item.default) if shown else ""


class Page:
    """Sections of a help page, wrapped to the width of the terminal.

    Parameters
    ----------
    width
        Columns; without it the terminal is asked.
    colour
        Whether headings are bold; without it they are on a terminal that has colours.
    """

    def __init__(self, width: int | None = None, colour: bool | None = None) -> None:
        self.width = min(_WIDEST, width or shutil.get_terminal_size().columns)
        self._colour = _has_colours() if colour is None else colour
        self._sections: list[str] = []

    def __str__(self) -> str:
        return "\n\n".join(self._sections)

    def usage(self, line: str) -> None:
        """Add how the command is called."""
        self._sections.append(f"{self._bold('Usage:')} {line}")

    def description(self, docstring: str) -> None:
        """Add paragraphs; one that is a command keeps its form."""
        for part in inspect.cleandoc(docstring).split("\n\n"):
            if part.startswith("scope "):
                self._sections.append("\n".join(self._command(part)))
            else:
                self.text(part)

    def text(self, paragraph: str) -> None:
        """Add a paragraph."""
        self._sections.append("\n".join(self._wrapped(" ".join(paragraph.split()), self.width)))

    def entries(self, title: str, rows: Iterable[Entry]) -> None:
        """Add a heading and rows of a name and a text; nothing if there is no row."""
        rows = list(rows)
        if not rows:
            return
        most = min(_NAMES, self.width * 2 // 5)
        column = 4 + max(min(len(name), most) for name, _ in rows)
        lines = [line for row in rows for line in self._row(row, column)]
        self._sections.append("\n".join([self._bold(f"{title}:"), *lines]))

    def _row(self, row: Entry, column: int) -> Iterator[str]:
        name, text = row
        lines = self._wrapped(text, self.width - column)
        if len(name) + 4 > column:
            yield f"  {name}"
        else:
            yield f"  {name}".ljust(column) + lines.pop(0)
        yield from (" " * column + line for line in lines)

    def _command(self, line: str) -> Iterator[str]:
        """Yield an example, broken as a shell takes it."""
        parts: list[str] = []
        for part in _ARGUMENT.findall(line):
            if parts and len(" ".join(["  ", *parts, part, "\\"])) > self.width:
                yield "  " + " ".join([*parts, "\\"])
                parts = ["   "]
            parts.append(part)
        yield "  " + " ".join(parts)

    def _wrapped(self, text: str, width: int) -> list[str]:
        wrapper = textwrap.TextWrapper(width, break_long_words=False, break_on_hyphens=False)
        return wrapper.wrap(text) or [""]

    def _bold(self, text: str) -> str:
        return f"\x1b[1m{text}\x1b[0m" if self._colour else text


def _has_colours() -> bool:
    plain = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
    return not plain and sys.stdout is not None and sys.stdout.isatty()


def _usage(argument: Any) -> str:
    return str(argument.metavar) if argument.required else f"[{argument.metavar}]"


def _short(item: Any) -> str:
    """Return two names of an option, and what it takes."""
    return " ".join([", ".join(short_names(item)), *metavar(item)])


def _summary(command: Any) -> str:
    """Return the first paragraph of a command's help."""
    return " ".join(inspect.cleandoc(command.help or "").split("\n\n")[0].split())
