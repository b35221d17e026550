"""A vocabulary with a token for each byte, and what a schema allows in it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from scope_cpp.engine.model import Model
from scope_cpp.engine.schema.matcher import CompiledSchema, SchemaConstraint
from scope_cpp.reference.tiny_model import write_tiny_model

Allows = Callable[[Any, str], bool]


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Model]:
    path = write_tiny_model(tmp_path_factory.mktemp("schema") / "tiny.gguf", n_ctx_train=256)
    with Model.load(path) as model:
        yield model


@pytest.fixture(scope="session")
def byte_tokens(model: Model) -> dict[int, int]:
    """A token for each byte."""
    single = {piece: token for token, piece in enumerate(model.pieces) if len(piece) == 1}
    return {byte: single[bytes([byte])] for byte in range(1, 128)} | {
        byte: 3 + byte for byte in range(128, 256)
    }


@pytest.fixture(scope="session")
def allows(model: Model, byte_tokens: dict[int, int]) -> Allows:
    """Whether a text, written byte by byte, is a whole answer to a schema."""

    def allows(schema: Any, text: str) -> bool:
        source = schema if isinstance(schema, str) else json.dumps(schema)
        constraint = CompiledSchema(model, source).begin()
        return follows(constraint, [byte_tokens[byte] for byte in text.encode()], model)

    return allows


def follows(constraint: SchemaConstraint, tokens: list[int], model: Model) -> bool:
    """Whether these tokens and an end are allowed one after the other."""
    for token in tokens:
        if not constraint.allows(token):
            assert not constraint.allowed()[token]
            return False
        constraint.accept(token)
    (end, *_) = model.eog_tokens
    assert constraint.allowed()[end] == constraint.allows(end)
    return constraint.allows(end)
