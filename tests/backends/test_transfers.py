"""How often a device is spoken to, and with how many bytes: not once more for more layers."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.backends import rpc
from tests.backends.rpc import Traffic
from tests.conftest import Tiny
from tests.engine.drive import bounded, random_tokens

pytestmark = pytest.mark.device_only


@pytest.fixture(autouse=True)
def _counted() -> None:
    if not rpc.children:
        pytest.skip("transfers are counted by the servers of --backend rpc")


N, MORE, BUDGET = 64, 40, 96

# uploads and downloads of a selection at most, for one device: what is scored, what is said of new
# rows, what is moved
POLICIES: dict[str, tuple[tuple[str, ...], int, int]] = {
    "scope-slide": ((), 2, 1),
    "scope-discontinuous": ((), 2, 1),
    "h2o": (("interval=3",), 2, 1),
    "streaming-llm": ((), 0, 0),
    "scope-retrieval": ((), 3, 2),
}

# inputs of the decode graph beside stock llama.cpp's: where queries are recorded; without flash
# attention also which sums they are added to, and which are written
RECORDED, SUMMED = 1, 2


def watch(path: Path, policy: str, flash: str) -> tuple[list[Traffic], list[Traffic]]:
    """What every selection takes but the first, and every token."""
    options = POLICIES[policy][0]
    selections, tokens = [], []
    with bounded(path, N, None, BUDGET, flash_attn=flash, policy=policy, options=options) as cache:
        cache.prefill(random_tokens(N))
        cache.context.logits()
        for token in random_tokens(MORE, seed=3):
            n, before = cache.stats.selections, rpc.traffic()
            cache.make_room()
            between = rpc.traffic()
            cache.compute([token])
            cache.context.logits()
            cache.decoded(1)
            if cache.stats.selections > n:
                selections.append(between - before)
            tokens.append(rpc.traffic() - between)
    # the first one takes the lengths of the prompt's rows beside what all take
    assert len(selections) > 1
    return selections[1:], tokens


@pytest.mark.parametrize("flash", ["on", "off"])
@pytest.mark.parametrize("policy", POLICIES)
def test_selections(tiny: Tiny, n_devices: int, policy: str, flash: str) -> None:
    _, n_up, n_down = POLICIES[policy]
    for n_layer in (2, 6):
        for took in watch(tiny(n_layer=n_layer), policy, flash)[0]:
            assert took.uploads <= n_up * n_devices
            assert took.downloads <= n_down * n_devices


# an 8B model's numbers of layers, KV heads and their size, which decide how much goes to and fro
LARGE = {"n_layer": 32, "n_head": 8, "n_head_kv": 8, "head_dim": 128, "n_embd": 64}
CELLS, PROMPT, LARGE_MORE = 1024, 900, 230
MOST_BYTES = 3 * 2**19


@pytest.mark.parametrize("flash", ["on", "off"])
def test_bytes_of_the_default(tiny: Tiny, n_devices: int, flash: str) -> None:
    """Attention comes back, and a few numbers for each new row: no rows."""
    path = tiny(**LARGE, n_ctx_train=4096)
    found = []
    with bounded(
        path, PROMPT, None, CELLS, flash_attn=flash, policy="scope-retrieval",
        options=("interval=32",),
    ) as cache:  # fmt: skip
        cache.prefill(random_tokens(PROMPT))
        for token in random_tokens(LARGE_MORE, seed=3):
            n, before = cache.stats.selections, rpc.traffic()
            cache.make_room()
            if cache.stats.selections > n:
                found.append(rpc.traffic() - before)
            cache.compute([token])
            cache.decoded(1)
    # at the first one the queries are handed over, and go through the prompt
    assert len(found) > 2
    assert found[-1].uploads <= 3 * n_devices
    assert found[-1].downloads <= 2 * n_devices
    # each device is given what its layers are, and the cells of all
    assert found[-1].up_bytes / n_devices + found[-1].down_bytes <= MOST_BYTES


@pytest.mark.parametrize("flash", ["on", "off"])
def test_tokens(tiny: Tiny, n_devices: int, flash: str) -> None:
    """A few bytes that say where queries go, whatever the number of layers."""
    counted = {}
    for n_layer in (2, 6):
        path = tiny(n_layer=n_layer)
        with bounded(path, N, MORE, 4 * BUDGET, flash_attn=flash) as cache:
            assert not cache.bounded
            cache.prefill(random_tokens(N))
            cache.decode(4)  # which builds the graph of one token
            cache.context.logits()
            before = rpc.traffic()
            cache.decode(5)
            cache.context.logits()
            stock = rpc.traffic() - before
        took = watch(path, "scope-slide", flash)[1][-1]
        counted[n_layer] = took.uploads - stock.uploads
        assert took.downloads == stock.downloads
    more = RECORDED + (SUMMED if flash == "off" else 0)
    # two layers may lie on one of two devices
    assert counted[6] == more * n_devices
    assert counted[2] <= counted[6]
