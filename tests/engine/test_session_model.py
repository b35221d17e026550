"""Which model a conversation was held with."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gguf
import pytest

from scope_cpp.engine.gguf_header import read_layout
from scope_cpp.engine.model import Model
from scope_cpp.engine.session_model import difference, identify
from scope_cpp.errors import ScopeError
from tests.conftest import Tiny


def identity(path: Path) -> dict[str, Any]:
    with Model.load(path, no_alloc=True) as model:
        return identify(model)


@pytest.fixture
def here(tiny: Tiny) -> Iterator[dict[str, Any]]:
    yield identity(tiny())


@pytest.mark.parametrize("fields", [{}, {"arch": "qwen2"}, {"weight_type": "q8_0"}])
def test_the_layout_is_that_of_the_gguf_package(tiny: Tiny, fields: dict[str, Any]) -> None:
    reader = gguf.GGUFReader(tiny(**fields))
    layout = read_layout(tiny(**fields))
    assert list(layout.tensors) == sorted(int(tensor.data_offset) for tensor in reader.tensors)
    info = reader.tensors[-1].field
    assert layout.n_header == info.offset + sum(part.nbytes for part in info.parts)


def test_another_name_is_no_difference(tiny: Tiny, here: dict[str, Any], tmp_path: Path) -> None:
    shutil.copy(tiny(), tmp_path / "other.gguf")
    assert difference(identity(tmp_path / "other.gguf"), here) is None


def test_other_weights_of_the_same_shape(tiny: Tiny, here: dict[str, Any]) -> None:
    text = difference(identity(tiny(seed=1)), here)
    assert text is not None and "same shape, but other weights" in text


def test_one_tensor_changed(tiny: Tiny, here: dict[str, Any], tmp_path: Path) -> None:
    path = Path(shutil.copy(tiny(), tmp_path))
    for tensor in gguf.GGUFReader(path, "r+").tensors:
        if tensor.name == "blk.1.ffn_up.weight":
            tensor.data[:] *= 1.001
    text = difference(identity(path), here)
    assert text is not None and "same shape, but other weights" in text


def test_another_vocabulary(tiny: Tiny, here: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / tiny().name
    data = tiny().read_bytes()
    assert data.count(b"<0x41>") == 1
    path.write_bytes(data.replace(b"<0x41>", b"<0x4z>"))
    text = difference(identify(SimpleNamespace(path=path, arch="llama")), here)  # type: ignore
    assert text is not None and "another header (vocabulary" in text


def test_another_shape(tiny: Tiny, here: dict[str, Any]) -> None:
    text = difference(identity(tiny(n_layer=3)), here)
    assert text is not None and tiny(n_layer=3).name in text and tiny().name in text


@pytest.mark.parametrize("saved", [{}, {"header": 1, "n_bytes": "x"}, {"file": None}])
def test_a_nonsensical_identity_is_another_model(here: dict[str, Any], saved: Any) -> None:
    assert difference(saved, here) is not None


def test_all_parts_of_a_split_model_count(tiny: Tiny, tmp_path: Path) -> None:
    paths = [tmp_path / f"m-0000{i}-of-00002.gguf" for i in (1, 2)]
    found = []
    for seed in (1, 2):
        for path, source in zip(paths, (tiny(), tiny(seed=seed)), strict=True):
            shutil.copy(source, path)
        found.append(identify(SimpleNamespace(path=paths[0], arch="llama")))  # type: ignore
    assert found[0]["n_bytes"] == sum(path.stat().st_size for path in paths)
    assert difference(*found) is not None


def test_a_model_that_is_gone(tiny: Tiny, tmp_path: Path) -> None:
    gone = SimpleNamespace(path=tmp_path / "gone.gguf", arch="llama")
    with pytest.raises(ScopeError, match="gone.gguf"):
        identify(gone)  # type: ignore
