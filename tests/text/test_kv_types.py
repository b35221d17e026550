from __future__ import annotations

from dataclasses import dataclass

import gguf
import pytest

from scope_cpp.engine.context import Context, ContextParams
from scope_cpp.engine.kv_types import KV_TYPES, CellLayer, bytes_per_cell, kv_type
from scope_cpp.engine.model import Model
from scope_cpp.errors import UsageError
from scope_cpp.native import kv_evict
from tests.architectures.memories import DIFFERING, RECURRENT, WINDOWED
from tests.conftest import Tiny


@dataclass(frozen=True)
class Shape:
    cell_layers: tuple[CellLayer, ...]


def shape(*n_head_kv: int, head_dim_k: int, head_dim_v: int) -> Shape:
    layers = (CellLayer(i, n, head_dim_k, head_dim_v) for i, n in enumerate(n_head_kv))
    return Shape(tuple(layers))


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
    two = shape(2, 2, head_dim_k=64, head_dim_v=32)
    assert bytes_per_cell(two, "f16", "q8_0") == 4 * (128 + 34)


def test_layers_may_differ() -> None:
    large = CellLayer(3, 1, 128, 128)
    both = Shape((*shape(4, 2, head_dim_k=64, head_dim_v=64).cell_layers, large))
    assert bytes_per_cell(both) == 6 * 256 + 512


@pytest.mark.parametrize("arch", [*WINDOWED, *RECURRENT, *DIFFERING])
@pytest.mark.parametrize("name", ["f16", "q4_1"])
def test_only_layers_with_cells_count(tiny_arch: Tiny, arch: str, name: str) -> None:
    kind = kv_type(name).ggml_type
    params = ContextParams(n_cells=512, type_k=kind, type_v=kind, n_threads=1, flash_attn="on")
    with Model.load(tiny_arch(arch=arch)) as other, Context(other, params) as context:
        assert [one.layer for one in other.cell_layers] == kv_evict.layer_ids(context.ptr).tolist()
        allocated = sum(kv_evict.memory(context.ptr)["cells"])
        assert bytes_per_cell(other, name, name) == allocated / 512
    with Model.load(tiny_arch(arch=arch), no_alloc=True) as other:
        assert bytes_per_cell(other, name, name) == allocated / 512


def test_names_ignore_case() -> None:
    assert kv_type("Q8_0") == kv_type("q8_0")


@pytest.mark.parametrize("name", ["q3_k", "", "f 16", "int8"])
def test_an_unknown_type_lists_the_known_ones(name: str) -> None:
    with pytest.raises(UsageError, match=r"f32, f16, bf16, q8_0, q4_0, q4_1, q5_0, q5_1, iq4_nl"):
        kv_type(name)


def test_a_block_that_does_not_divide_the_head_names_both() -> None:
    with pytest.raises(UsageError, match=r"q8_0 .*32 values.* 80"):
        bytes_per_cell(shape(1, head_dim_k=80, head_dim_v=80), "q8_0")


def test_a_small_head_is_refused_only_for_block_types(stories: Model) -> None:
    assert bytes_per_cell(stories, "f16", "f32") == 5 * 4 * 8 * (2 + 4)
    with pytest.raises(UsageError, match="head size of 8"):
        bytes_per_cell(stories, "f16", "q4_0")
