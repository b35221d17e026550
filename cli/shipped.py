"""The model that comes with scope-cpp, for commands that are given none."""

from __future__ import annotations

from . import terminal

EXAMPLE = "Facts: ab=3 cd=4 ef=9 Questions: Q1 ab cd Q2 ef A1"


def path() -> str:
    """Return its path.

    Raises
    ------
    ScopeError
        If this installation has none.
    """
    from scope_cpp.reference.shipped import model_path

    return str(model_path())


def introduce() -> None:
    """Say what it is, to somebody who did not name it."""
    terminal.note(
        "no model is given: this is the tiny reference model, which only answers questions about "
        f"facts, such as {EXAMPLE}; -m smollm2 downloads a small real one (94 MiB)"
    )
