"""What can't be bounded is refused with its reason, and goes on as it did without us."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from scope_cpp.engine.capability import probe
from scope_cpp.native import kv_evict
from tests.conftest import Tiny
from tests.native.harness import KV_TYPES, PLAIN, Session, random_tokens
from tests.reference.refused import LOADABLE, write_refused

NO_CACHE, RECURRENT, MLA = -1, -2, -5
STREAMS, ALIBI, HEAD_BYTES = -7, -9, -12

STATUS = {
    "deepseek2": MLA,
    "mamba": RECURRENT,
    "mpt": ALIBI,
    "bloom": ALIBI,
    "bert": NO_CACHE,
}

SUPPORTED: list[dict[str, Any]] = [
    *({"arch": arch} for arch in ("llama", "qwen2", "qwen3", "phi3", "mistral3")),
    {"n_expert": 4},
]


def init_status(session: Session) -> int:
    with pytest.raises(kv_evict.NativeError, match="can't be bounded: ") as caught:
        kv_evict.init(session.ctx, 4)
    return caught.value.status


def counts(session: Session) -> list[int]:
    functions = kv_evict.n_layer, kv_evict.n_head_kv, kv_evict.n_cells, kv_evict.n_used
    return [function(session.ctx) for function in functions]


def test_every_file_has_its_status() -> None:
    assert set(STATUS) == set(LOADABLE)


@pytest.mark.parametrize("name", STATUS)
def test_architectures(tmp_path: Path, name: str) -> None:
    with Session(write_refused(name, tmp_path / "model.gguf"), flash=None) as session:
        assert init_status(session) == STATUS[name]
        assert counts(session) == [0] * 4
        assert kv_evict.cells(session.ctx, 0)[0].size == 0
        with pytest.raises(kv_evict.NativeError, match="init was not called"):
            kv_evict.n_queries(session.ctx, 0)


@pytest.mark.parametrize("name", sorted(set(STATUS) - {"bert"}))
def test_refused_models_go_on(tmp_path: Path, name: str) -> None:
    path = write_refused(name, tmp_path / "model.gguf")
    logits = []
    for asking in (False, True):
        with Session(path, flash=None) as session:
            first = session.decode(random_tokens(10), 0)
            if asking:
                init_status(session)
            logits.append(np.concatenate([first, session.decode_each(random_tokens(5), 10)]))
    assert np.isfinite(logits[0]).all()
    assert np.array_equal(logits[0], logits[1])


@pytest.mark.parametrize("name", STATUS)
def test_probe_says_why(tmp_path: Path, name: str) -> None:
    verdict = probe(write_refused(name, tmp_path / "model.gguf"))
    assert not verdict.supported
    assert (verdict.n_layer, verdict.n_head_kv) == (0, 0)
    if name == "bert":
        assert "encoder" in verdict.reason
    else:
        assert verdict.reason == kv_evict.strerror(STATUS[name])


@pytest.mark.parametrize("shape", SUPPORTED, ids=str)
def test_supported_architectures(tiny: Tiny, shape: dict[str, Any]) -> None:
    path = tiny(**shape)
    verdict = probe(path)
    assert (verdict.supported, verdict.reason) == (True, "")
    assert (verdict.n_layer, verdict.n_head_kv) == (2, 2)
    with Session(path, flash=None) as session:
        kv_evict.init(session.ctx, 4)
        assert counts(session) == [2, 2, 256, 0]


@pytest.mark.parametrize("kv", sorted(KV_TYPES))
def test_probe_takes_the_types_of_the_cache(tiny: Tiny, kv: str) -> None:
    assert probe(tiny(), kv, kv).supported


@pytest.mark.parametrize("cache", PLAIN, ids=str)
def test_flash_attention_off(tiny: Tiny, cache: dict[str, Any]) -> None:
    with Session(tiny(), **cache) as session:
        kv_evict.init(session.ctx, 4)
    kv = cache["kv"]
    types = (kv, kv) if isinstance(kv, str) else kv
    assert probe(tiny(), *types, flash_attn="off").supported


def test_a_quantized_v_needs_flash_attention(tiny: Tiny) -> None:
    verdict = probe(tiny(), "f16", "q8_0", flash_attn="off")
    assert (verdict.supported, verdict.generates) == (False, False)
    assert "computes without flash attention, which a V in blocks needs" in verdict.reason


def test_streams(tiny: Tiny) -> None:
    with Session(tiny(), n_seq=2, unified=False) as session:
        assert init_status(session) == STREAMS
    with Session(tiny(), n_seq=1, unified=False) as session:
        kv_evict.init(session.ctx, 4)


@pytest.mark.parametrize(
    ("kv", "head_dim", "fits"),
    [
        ("q8_0", 96, False),
        (("f16", "q8_0"), 96, False),
        (("q8_0", "f16"), 96, False),
        ("q4_0", 96, False),
        ("q5_1", 96, True),
        ("q4_1", 96, True),
        ("f16", 96, True),
        ("q8_0", 32, False),
        ("q8_0", 64, True),
        ("q8_0", 128, True),
    ],
    ids=str,
)
def test_heads_that_are_not_whole_words(
    tiny: Tiny, kv: str | tuple[str, str], head_dim: int, fits: bool
) -> None:
    path = tiny(head_dim=head_dim)
    types = (kv, kv) if isinstance(kv, str) else kv
    verdict = probe(path, *types)
    assert verdict.reason == ("" if fits else kv_evict.strerror(HEAD_BYTES))
    with Session(path, kv=kv) as session:
        if fits:
            kv_evict.init(session.ctx, 4)
        else:
            assert init_status(session) == HEAD_BYTES


def test_values_of_a_transposed_v_need_no_words(tiny: Tiny) -> None:
    """Without flash attention only K is moved by words."""
    with Session(tiny(head_dim=32), kv=("q8_0", "f16"), flash=False) as session:
        assert init_status(session) == HEAD_BYTES
    with Session(tiny(head_dim=32), kv="f16", flash=False) as session:
        kv_evict.init(session.ctx, 4)


def test_stopping_is_never_refused(tmp_path: Path, tiny: Tiny) -> None:
    refused = write_refused("mamba", tmp_path / "model.gguf")
    for path, n_window in ((refused, 0), (tiny(), 4)):
        with Session(path, flash=None) as session:
            kv_evict.init(session.ctx, n_window)
            kv_evict.init(session.ctx, 0)
            with pytest.raises(kv_evict.NativeError, match="init was not called"):
                kv_evict.n_queries(session.ctx, 0)
