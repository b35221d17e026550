"""How to install what only some commands need."""

from __future__ import annotations


def install(extra: str) -> str:
    """Return the command that adds an extra to an environment that has scope-cpp.

    pip takes the scope-cpp that is there, built from a clone or not, and adds what is missing.

    >>> install("serve")
    "pip install 'scope-cpp[serve]'"
    """
    return f"pip install 'scope-cpp[{extra}]'"
