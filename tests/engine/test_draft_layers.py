"""Files that have a layer beside the model's own which guesses later tokens (MTP)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from scope_cpp.engine.model import Model
from scope_cpp.errors import ScopeError
from scope_cpp.native import kv_evict
from tests.architectures.edited import copy_file, draft_alone, read_tensors, with_draft_layer
from tests.conftest import Tiny
from tests.engine.rows import greedily

ARCHITECTURES = ("qwen35", "qwen35moe", "qwen3next", "glm4moe", "glm4", "exaone4", "mimo2", "hy_v3",
                 "step35", "cohere2moe")  # fmt: skip


def written(path: Path) -> tuple[list[int | None], int]:
    """Tokens within few cells, and layers whose cells are chosen."""
    with greedily(path, 30, 150, budget=60) as generation:
        tokens = [response.token for response in generation]
        assert kv_evict.n_used(generation.context.ptr) <= 60
        return tokens, kv_evict.n_layer(generation.context.ptr)


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_the_model_writes_as_without_it(tiny_arch: Tiny, tmp_path: Path, arch: str) -> None:
    path = tiny_arch(arch=arch)
    assert written(with_draft_layer(path, tmp_path / "with.gguf")) == written(path)


@pytest.mark.parametrize("arch", ["qwen35", "glm4moe", "mimo2"])
def test_the_layer_alone_is_refused_as_a_draft(tiny_arch: Tiny, tmp_path: Path, arch: str) -> None:
    whole = with_draft_layer(tiny_arch(arch=arch), tmp_path / "with.gguf")
    with pytest.raises(ScopeError, match=r"alone\.gguf is a draft, .*: give that model$"):
        Model.load(draft_alone(whole, tmp_path / "alone.gguf"))


@pytest.mark.parametrize(
    ("n", "why"), [(2, "blk.0.attn_sinks.weight' has wrong shape"), (0, "not found")]
)
def test_another_number_of_sinks_is_refused(
    tiny_arch: Tiny, tmp_path: Path, n: int, why: str
) -> None:
    path = tiny_arch(arch="gpt-oss")
    tensors = {
        name: np.tile(values, n) if "sinks" in name else values
        for name, values in read_tensors(path).items()
        if n or "sinks" not in name
    }
    with pytest.raises(ScopeError, match=why):
        Model.load(copy_file(path, tmp_path / "sinks.gguf", tensors))
