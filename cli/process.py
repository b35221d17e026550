"""What a command does with its process before anything native runs in it."""

from __future__ import annotations


def prepare(*, verbose: bool) -> None:
    """Keep llama.cpp's log, show it with `verbose`, and let the process end in one line."""
    from scope_cpp.engine import logs
    from scope_cpp.native.last_words import exit_on_abort

    logs.capture(verbose=verbose)
    exit_on_abort()
