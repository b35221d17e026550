"""How far a long prompt is read: a line on a terminal, which is gone when the output begins."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from . import terminal

if TYPE_CHECKING:
    from scope_cpp.engine.generate import Generation

# Tokens of a prompt that are read at once, as far as anyone notices
SHORT = 256
_CLEAR = "\r\x1b[2K"


@contextmanager
def reading(generation: Generation) -> Iterator[None]:
    """Show on stderr how many tokens of the prompt are read, if it is a long one."""
    n_all, cache = len(generation.tokens), generation.cache
    if n_all <= SHORT or not terminal.is_terminal() or os.environ.get("TERM") == "dumb":
        yield
        return

    def show() -> None:
        done = cache.n_computed
        told = f"reading the prompt: {done:,} of {n_all:,} tokens" if done < n_all else ""
        print(_CLEAR + told, end="", file=sys.stderr, flush=True)
        if not told:
            cache.computed = lambda: None

    cache.computed = show
    show()
    try:
        yield
    finally:
        if cache.n_computed < n_all:
            print(_CLEAR, end="", file=sys.stderr, flush=True)
        cache.computed = lambda: None
