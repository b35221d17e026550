"""What keeps an output to a grammar or a JSON schema, token by token."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from scope_cpp.engine.grammar import GrammarConstraint
from scope_cpp.engine.model import Model


class Constraint(Protocol):
    """An output that is being written.

    Attributes
    ----------
    name
        What it keeps to, for messages.
    """

    name: str

    def allows(self, token: int) -> bool:
        """Whether the output may go on, or end, with a token."""

    def allowed(self) -> NDArray[np.bool_]:
        """Return which tokens `allows` takes."""

    def accept(self, token: int) -> None:
        """Go on with a token that is allowed."""

    def reset(self) -> None:
        """Begin anew."""


def begin(model: Model, grammar: str | None, json_schema: str | None) -> Constraint | None:
    """Return what keeps a new output to a GBNF grammar or a JSON schema, None without either.

    Raises
    ------
    UsageError
        For one that is wrong or cannot be kept to, or a model that has no end token: once the
        output is complete no token at all would be allowed.
    """
    if grammar is not None:
        return GrammarConstraint(model, grammar)
    if json_schema is not None:
        # it loads a library that nothing else needs
        from scope_cpp.engine.schema.matcher import CompiledSchema

        return CompiledSchema(model, json_schema).begin()
    return None
