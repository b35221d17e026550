"""The two streams: text on stdout, everything else on stderr, in colour on a terminal only.

Whatever is not a text that a model writes is printed harmless, wherever its words came from.
"""

from __future__ import annotations

import os
import re
import sys
import textwrap
import traceback
from collections.abc import Iterable

from scope_cpp.json_text import json_text
from scope_cpp.printable import harmless, one_line


def write(text: str) -> None:
    """Write to stdout at once.

    Raises
    ------
    OSError
        If stdout is closed or can't take it.
    """
    if sys.stdout is None:
        raise OSError("stdout is closed")
    sys.stdout.write(text)
    sys.stdout.flush()


def write_json(value: object, indent: int | None = None) -> None:
    """Write to stdout as JSON, harmless too."""
    write(json_text(value, indent))


def drop_stdout() -> None:
    """Throw away what stdout could not take, or Python would complain about it at exit."""
    if sys.stdout is None:
        return
    try:
        number = sys.stdout.fileno()
    except (OSError, ValueError):  # not a file: a test's buffer
        return
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, number)
    os.close(null)


def note(text: str) -> None:
    """Print a line of minor importance on stderr."""
    _print(text, "2")


def warning(text: str) -> None:
    """Print a warning as one line on stderr."""
    _print(f"warning: {one_line(text)}", "33")


def error(text: str) -> None:
    """Print an error as one line on stderr."""
    _print(f"error: {one_line(text)}", "31")


def fault(err: Exception, verbose: bool, after: str = "") -> None:
    """Print the line of a fault of ours, and its traceback if that is wanted.

    Parameters
    ----------
    err
        Any exception that is no error of the user's.
    verbose
        Whether ``-v`` was given.
    after
        What else is said in the line.
    """
    if verbose:
        note("".join(traceback.format_exception(err)).rstrip())
    where = "" if verbose else "; run with -v for the traceback"
    error(f"{type(err).__name__}: {err}{after}{where}")


def shows_stdout() -> bool:
    """Whether stdout is a terminal."""
    return sys.stdout is not None and sys.stdout.isatty()


def is_terminal() -> bool:
    """Whether stderr is a terminal."""
    return sys.stderr is not None and sys.stderr.isatty()


def _print(text: str, colour: str) -> None:
    text = harmless(text)
    if is_terminal():
        text = _wrapped(text)
        if not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb":
            text = f"\x1b[{colour}m{text}\x1b[0m"
    if sys.stderr is not None:
        print(text, file=sys.stderr, flush=True)


def _wrapped(text: str) -> str:
    """Break lines that are wider than the terminal; the terminal would break words."""
    try:
        width = os.get_terminal_size(sys.stderr.fileno()).columns
    except (OSError, ValueError):  # says it is a terminal, and has no size
        return text
    return broken(text, width) if width > 0 else text


def broken(text: str, width: int) -> str:
    """Break lines that are wider than `width` between words.

    What follows the first gap of two spaces, as in a table of names and values, goes on below
    itself. Only a word that is wider than a line is left to the terminal.
    """
    return "\n".join(_broken(line, width) for line in text.split("\n"))


def _broken(line: str, width: int) -> str:
    if len(line) <= width:
        return line
    gap = re.match(r"\s*\S.*?\s{2,}(?=\S)|\s+", line)
    indent = gap.end() if gap and 2 * gap.end() <= width else 0
    return textwrap.fill(
        line,
        width,
        subsequent_indent=" " * indent,
        expand_tabs=False,
        replace_whitespace=False,
        break_long_words=False,
        break_on_hyphens=False,
    )


def table(rows: Iterable[tuple[str, str]]) -> str:
    """Return rows of a name and a value as aligned lines."""
    shown = [(one_line(name), one_line(value)) for name, value in rows]
    width = max(len(name) for name, _ in shown)
    return "".join(f"{name:<{width}}  {value}\n" for name, value in shown)
