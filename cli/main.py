"""Entry point of the ``scope`` command: Ctrl-C ends it without a word from its first moment on."""

from __future__ import annotations

from .interrupt import exit_at_once


def main() -> None:
    """Run the command with the arguments of the process."""
    with exit_at_once():
        from .program import app
    app(prog_name="scope")
