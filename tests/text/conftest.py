"""A tiny random model and a context, shared by the tests of the text side."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from scope_cpp.engine.context import Context, ContextParams
from scope_cpp.engine.model import Model
from scope_cpp.native.library import llama_cpp
from scope_cpp.reference.tiny_model import write_tiny_model

TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}[assistant] {% endif %}"
)


@pytest.fixture(scope="session")
def tiny_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tiny") / "tiny.gguf"
    return write_tiny_model(path, chat_template=TEMPLATE, n_ctx_train=256)


@pytest.fixture(scope="session")
def model(tiny_path: Path) -> Iterator[Model]:
    with Model.load(tiny_path) as model:
        yield model


@pytest.fixture
def ctx(model: Model) -> Iterator[Context]:
    with Context(model, ContextParams(n_cells=256, n_threads=1, n_outputs=256)) as context:
        yield context


@pytest.fixture(scope="session")
def stories(shared_dir: Path) -> Iterator[Model]:
    """A model that writes English, for what a random one cannot show."""
    with Model.load(shared_dir / "models" / "stories260K-f32.gguf") as model:
        yield model


@pytest.fixture
def stories_ctx(stories: Model) -> Iterator[Context]:
    with Context(stories, ContextParams(n_cells=256, n_threads=1)) as context:
        yield context


def restart(context: Context) -> None:
    """Empty the cache of `context`."""
    llama_cpp.llama_memory_clear(context.memory, True)
