from __future__ import annotations

from dataclasses import dataclass

import gguf
import pytest

from scope_cpp.engine.context import Context, ContextParams
from scope_cpp.engine.kv_types import KV_TYPES, bytes_per_cell, kv_type
from scope_cpp.engine.model import Model
from scope_cpp.errors import UsageError
from scope_cpp.native import kv_evict


@dataclass(frozen=True)
class Shape:
    n_head_kv_by_layer: tuple[int, ...]
    head_dim_k: int
    head_dim_v: int


@pytest.mark.parametrize("name", KV_TYPES)
def test_sizes_are_those_of_ggml(name: str) -> None:
    kind = gguf.GGMLQuantizationType[name.upper()]
    assert KV_TYPES[name] == (kind.value, *gguf.GGML_QUANT_SIZES[kind])


@pytest.mark.parametrize("name", KV_TYPES)
def test_bytes_per_cell_is_what_llama_cpp_allocates(model: Model, name: str) -> None:
    kind = kv_type(name).ggml_type
    params = ContextParams(n_cells=256, type_k=kind, type_v=kind, n_threads=1, flash_attn="on")
    with Context(model, params) as context:
        allocated = kv_evict.n_bytes(context.ptr) / context.n_cells
    assert bytes_per_cell(model, name, name) == allocated


def test_k_and_v_count_by_themselves() -> None:
    shape = Shape((2, 2), head_dim_k=64, head_dim_v=32)
    assert bytes_per_cell(shape, "f16", "q8_0") == 4 * (128 + 34)


def test_layers_may_differ() -> None:
    assert bytes_per_cell(Shape((4, 0, 2), 64, 64)) == 6 * 256


def test_names_ignore_case() -> None:
    assert kv_type("Q8_0") == kv_type("q8_0")


@pytest.mark.parametrize("name", ["q3_k", "", "f 16", "int8"])
def test_an_unknown_type_lists_the_known_ones(name: str) -> None:
    with pytest.raises(UsageError, match=r"f32, f16, bf16, q8_0, q4_0, q4_1, q5_0, q5_1, iq4_nl"):
        kv_type(name)


def test_a_block_that_does_not_divide_the_head_names_both() -> None:
    with pytest.raises(UsageError, match=r"q8_0 .*32 values.* 80"):
        bytes_per_cell(Shape((1,), 80, 80), "q8_0")


def test_a_small_head_is_refused_only_for_block_types(stories: Model) -> None:
    assert bytes_per_cell(stories, "f16", "f32") == 5 * 4 * 8 * (2 + 4)
    with pytest.raises(UsageError, match="head size of 8"):
        bytes_per_cell(stories, "f16", "q4_0")
