"""A model on a device does what it does in main memory, within the rounding of the CPU.

Run with ``pytest --backend rpc`` and ``--backend two-rpc``. The child that serves the device
computes with the same CPU code, on one thread as we do, but ggml may choose other kernels for
weights and caches that it can't reach.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from scope_cpp.native import kv_evict
from tests.conftest import Tiny
from tests.native.harness import CACHES, Session, error, random_tokens
from tests.native.heads import Rows, random_keep

pytestmark = pytest.mark.device_only

# of logits, relative to the largest: what f16 attention differs by between two orders of adding up;
# the noise of quantized rows is theirs. Without flash attention all is f32
TOLERANCE = 3e-3
QUANTIZED = 1.7e-2
# of softmax weights, which are at most the number of queries and heads that are summed up
WEIGHTS = 2e-3

N, MORE, WINDOW = 100, 40, 8
TOKENS = random_tokens(N + 2 * MORE)
F32 = npt.NDArray[np.float32]


def on_both(work: Callable[[Session], Any], path: Path, **options: Any) -> tuple[Any, Any]:
    """What `work` returns in main memory, and on the devices."""
    results = []
    for placement in ({"n_gpu_layers": 0}, {}):
        with Session(path, **options, placement=placement) as session:
            kv_evict.init(session.ctx, WINDOW)
            results.append(work(session))
    return results[0], results[1]


def evict(session: Session, seed: int = 1) -> Rows:
    """Read a prompt and keep another 40 rows in every head."""
    session.decode(TOKENS[:N], 0)
    rows = Rows(session.ctx)
    rows.note_decoded()
    rows.evict(random_keep(rows.held[:, :, :N], 40, 8, np.random.default_rng(seed)))
    return rows


def is_quantized(cache: dict[str, Any]) -> bool:
    return "q" in str(cache["kv"])


@pytest.mark.parametrize("cache", CACHES, ids=str)
def test_everything_after_an_eviction(tiny: Tiny, cache: dict[str, Any]) -> None:
    """Logits, scores, queries, rows and likeness of heads that hold different rows."""

    def work(session: Session) -> dict[str, F32]:
        evict(session)
        logits = session.decode_each(TOKENS[N : N + MORE], N)
        ids = kv_evict.cells(session.ctx, 0)[1]
        return {
            "logits": logits,
            "scores": kv_evict.scores(session.ctx, 0, WINDOW, ids),
            "by head": kv_evict.scores(session.ctx, 0, 3, ids, by_head=True),
            "queries": kv_evict.queries(session.ctx, 0, WINDOW, 400),
            "keys": kv_evict.rows(session.ctx, 0, ids),
            "values": kv_evict.rows(session.ctx, 0, ids, values=True),
            "likeness": kv_evict.likeness(session.ctx, 0, ids, 12, value_weight=0.5),
        }

    on_cpu, on_device = on_both(work, tiny(), **cache)
    allowed = QUANTIZED if is_quantized(cache) else TOLERANCE
    assert {
        name: error(on_device[name], on_cpu[name]) > allowed for name in on_cpu
    } == dict.fromkeys(on_cpu, False)


@pytest.mark.parametrize("flash", [True, False])
def test_two_sequences(tiny: Tiny, flash: bool) -> None:
    """Each is evicted, scored and compared as alone; few cells of many are gathered."""

    def work(session: Session) -> list[F32]:
        evict(session)
        session.decode(random_tokens(500, seed=6), 0, seq=1)
        session.decode_batch([(5, N, (0,)), (6, 500, (1,))])
        found = []
        for seq in (0, 1):
            ids = kv_evict.cells(session.ctx, seq)[1]
            found.append(kv_evict.scores(session.ctx, seq, 1, ids))
            found.append(kv_evict.likeness(session.ctx, seq, ids, 5, value_weight=0.5))
        return found

    on_cpu, on_device = on_both(work, tiny(), n_ctx=1024, n_seq=2, flash=flash)
    for expected, got in zip(on_cpu, on_device, strict=True):
        assert np.abs(got - expected).max() < WEIGHTS


@pytest.mark.parametrize("cache", CACHES, ids=str)
def test_a_state_goes_from_one_to_the_other(tiny: Tiny, cache: dict[str, Any]) -> None:
    """What is written on the device is loaded in main memory, and the other way round."""
    allowed = QUANTIZED if is_quantized(cache) else TOLERANCE
    for source, target in (({}, {"n_gpu_layers": 0}), ({"n_gpu_layers": 0}, {})):
        with Session(tiny(), **cache, placement=source) as session:
            kv_evict.init(session.ctx, WINDOW)
            evict(session)
            saved = kv_evict.state_get(session.ctx, 0)
            expected = session.decode_each(TOKENS[N : N + 5], N)
        with Session(tiny(), **cache, placement=target) as session:
            kv_evict.init(session.ctx, WINDOW)
            kv_evict.state_set(session.ctx, 0, saved)
            assert kv_evict.state_get(session.ctx, 0) == saved
            assert error(session.decode_each(TOKENS[N : N + 5], N), expected) < allowed


@pytest.mark.parametrize("flash", [True, False])
@pytest.mark.parametrize("n_gpu_layers", range(5))
def test_some_layers_only(tiny: Tiny, n_gpu_layers: int, flash: bool) -> None:
    """The cells of the others lie in main memory, as many as llama.cpp was told."""
    path = tiny(n_layer=3)
    found = []
    for placement in ({"n_gpu_layers": 0}, {"n_gpu_layers": n_gpu_layers}):
        with Session(path, flash=flash, placement=placement) as session:
            kv_evict.init(session.ctx, WINDOW)
            evict(session)
            logits = session.decode_each(TOKENS[N : N + MORE], N)
            ids = kv_evict.cells(session.ctx, 0)[1]
            scores = kv_evict.scores(session.ctx, 0, WINDOW, ids)
            like = kv_evict.likeness(session.ctx, 0, ids, 12, value_weight=0.5)
            found.append((logits, scores, like))
            host, device = kv_evict.memory(session.ctx)["cells"]
    # the output counts as the last layer
    assert device * 3 == (host + device) * max(0, n_gpu_layers - 1)
    for expected, got in zip(*found, strict=True):
        assert error(got, expected) < TOLERANCE
