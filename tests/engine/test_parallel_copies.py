"""Rows that begin alike on models with windows and recurrent states: copies of whole sequences."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest

from scope_cpp.engine.forecast import Forecast
from scope_cpp.engine.model import Model
from scope_cpp.engine.parallel import Event, ParallelEngine, Request
from scope_cpp.engine.parallel.checkpoints import Checkpoint, Checkpoints
from scope_cpp.engine.parallel.copies import Copies
from scope_cpp.engine.parallel.demand import usual_ring
from scope_cpp.engine.parallel.prefixes import LEAST
from scope_cpp.engine.settings import Settings
from scope_cpp.errors import ScopeError, UsageError
from tests.conftest import Tiny
from tests.engine.drive import random_tokens
from tests.engine.rows import alone, engine, request, run, settings, tokens_of
from tests.engine.test_memories import every_class
from tests.engine.test_parallel_prefix import n_read

COMMON = random_tokens(100, seed=50)
# a batch of several tokens rounds otherwise in 16 bits
EXACT: dict[str, Any] = {"type_k": "f32", "type_v": "f32"}
# copies of all that these tests keep
PLENTY = 20_000


@pytest.fixture
def model(tiny_arch: Tiny, arch: str) -> Iterator[Model]:
    with Model.load(tiny_arch(arch=arch)) as model:
        yield model


def n_shared(said: list[list[Event]]) -> list[int]:
    return [events[-1].response.stats.n_shared for events in said]  # type: ignore[union-attr]


@every_class
def test_a_common_beginning_is_read_once(model: Model) -> None:
    """Whatever the policy; one that may evict asks the queries of a prompt's second half again."""
    rows = [
        request([*COMMON, *random_tokens(20, seed=i)], 40, policy=policy, budget=budget, **EXACT)
        for policy, budget in (("full", None), ("scope-slide", 140), (None, 130))
        for i in range(3)
    ]
    with engine(model, 3, 900, prefix_cells=PLENTY, come_back=False, **EXACT) as made:
        said = run(made, rows[:3]) + run(made, rows[3:6]) + run(made, rows[6:])
        assert made.cells_used() == 0 and made.n_evicted > 100
        assert made.memory().copies == made._cells.n_copied_bytes() > 0
    assert n_shared(said) == [0, 100, 100, 100, 100, 100, 0, 60, 60]
    for row, events in zip(rows, said, strict=True):
        assert tokens_of(events) == tokens_of(alone(model, row))


@every_class
def test_a_conversation_reads_what_is_new(model: Model) -> None:
    fields: dict[str, Any] = {"policy": "full", **EXACT}
    with engine(model, 1, 600, prefix_cells=PLENTY, **EXACT) as made:
        talk = random_tokens(60)
        for turn in range(4):
            row = request(talk, 40, **fields)
            (events,) = run(made, [row])
            assert n_shared([events]) == [len(talk) - 10 if turn else 0]
            assert tokens_of(events) == tokens_of(alone(model, row))
            # the last token of an answer is not decoded
            talk = [*talk, *tokens_of(events), *random_tokens(9, seed=turn)]  # type: ignore[list-item]
        # the last prompt again: the copies of the answer before it, and of this one
        assert n_read(made, row, "again") == 10


@pytest.mark.parametrize("arch", ["gemma3", "lfm2"])
def test_a_beginning_is_known_from_the_second_on(model: Model) -> None:
    """As the system prompt of clients that come one after the other."""
    fields: dict[str, Any] = {"policy": "full", **EXACT}
    with engine(model, 2, 600, prefix_cells=PLENTY, **EXACT) as made:
        for i, known in enumerate((0, 0, 100, 100)):
            row = request([*COMMON, *random_tokens(50, seed=i)], 20, **fields)
            said = run(made, [row])
            assert n_shared(said) == [known]
            assert tokens_of(said[0]) == tokens_of(alone(model, row))


@every_class
def test_the_same_prompt_gives_the_same_bits(model: Model) -> None:
    """The first one was divided where its copy was made. Plain attention sums in another order."""
    logits = []
    dials = {"policy": "full", "flash_attn": "on"}
    prompt = request(random_tokens(90), 1, **dials)
    with engine(model, 1, 300, prefix_cells=PLENTY, **dials) as made:
        for n in (90, 1):
            assert n_read(made, prompt, n) == n
            logits.append(made.context.logits())
    assert np.array_equal(*logits)


@pytest.mark.parametrize("arch", ["gemma3", "qwen35"])
def test_a_copy_that_cannot_be_made_or_used_costs_no_row(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    fields: dict[str, Any] = {"policy": "full", **EXACT}
    row = request(random_tokens(90), 20, **fields)
    expected = tokens_of(alone(model, row))
    with engine(model, 3, 400, prefix_cells=PLENTY, **EXACT) as made:
        kept = made._cells._checkpoints
        assert kept is not None
        for refused in (ScopeError("no"), MemoryError()):
            with monkeypatch.context() as patch:
                patch.setattr(made.context, "read_state", Mock(side_effect=refused))
                assert tokens_of(run(made, [row])[0]) == expected
        assert kept.n_bytes == 0
        # three answers to one prompt: the others find what the first has read
        said = run(made, [row] * 3)
        assert n_shared(said) == [0, 89, 89]
        assert [tokens_of(events) for events in said] == [expected] * 3
        (whole,) = kept._kept
        kept._kept = [Checkpoint(whole.tokens, whole.state[:200])]
        said = run(made, [row])
        assert n_shared(said) == [0] and tokens_of(said[0]) == expected
        assert n_shared(run(made, [row])) == [89], "the damaged one is gone"


@pytest.mark.parametrize("arch", ["gemma3", "qwen35"])
def test_the_memory_of_copies_is_bounded(model: Model) -> None:
    with Forecast(model) as forecast:
        copies = Copies.of(forecast, settings(), 2)
    assert copies is not None
    rows = [request(random_tokens(90, seed=i), 50) for i in range(6)]
    with engine(model, 2, 400, prefix_cells=PLENTY) as made:
        run(made, rows[:1])
        # one at 89 tokens, and one at 139
        taken = made.memory().copies
        prefix_cells = -(-taken // copies.per_cell)
        # tokens, their positions, and what llama.cpp writes of each layer
        aside = (89 + 139) * 2 * 16 + 4096
        assert taken <= copies.cells(89 + 139, 2) * copies.per_cell + aside
    with engine(model, 2, 400, prefix_cells=prefix_cells) as made:
        most = prefix_cells * copies.per_cell
        assert made._cells._checkpoints is not None
        assert made._cells._checkpoints.most_bytes == most
        for row in rows:
            run(made, [row])
            assert 0 < made.memory().copies <= most
        # what is there is the last one
        assert n_read(made, rows[-1], "last") == 1
        run(made, [])
        assert n_read(made, rows[0], "first") == 90
    for none in (0, LEAST - 1):
        with engine(model, 2, 400, prefix_cells=none) as made:
            assert n_shared(run(made, [rows[0], rows[0]])) == [0, 0]
            assert made.memory().copies == 0
    with pytest.raises(UsageError, match="--prefix-cache 1k: with its windows.*give more, or 0"):
        copies.check("--prefix-cache", "1k", copies.cells(LEAST, 1) - 1)


@pytest.mark.parametrize("arch", ["gemma3", "lfm2"])
def test_what_is_forecast_is_what_copies_take(model: Model) -> None:
    """And no row that was evicted from, or whose prompt was thinned, is copied at its end."""
    with Forecast(model) as forecast:
        copies = Copies.of(forecast, settings(), 1)
        assert copies is not None
        taken = copies.added(lambda n: n, lambda n: 3)
        assert taken(5) == 5 + 3 * copies.per_cell
    with engine(model, 1, 400, prefix_cells=PLENTY, come_back=True) as made:
        run(made, [request(random_tokens(90), 80, policy="scope-slide", budget=130)])
        (kept,) = made._cells._checkpoints._kept  # type: ignore[union-attr]
        # what the policy asks again is read by each; the rest of the prompt is there
        assert kept.tokens.size == 89
        assert kept.state.nbytes <= copies.cells(90, 1) * copies.per_cell + 4096
        run(made, [request(random_tokens(90, seed=1), 40, prefill="h2o", budget=60)])
        assert len(made._cells._checkpoints._kept) == 1  # type: ignore[union-attr]


@pytest.mark.parametrize("arch", ["gemma3", "lfm2"])
def test_an_engine_has_windows_and_states_for_its_rows_alone(model: Model) -> None:
    chosen = settings()
    with Forecast(model) as forecast:
        ring = usual_ring(chosen, 400)
        found = forecast.of_run(chosen, 400, bounded=True, n_recorded=ring, n_parallel=3)
    with engine(model, 3, 400, prefix_cells=PLENTY) as made:
        there = made.memory()
        assert (there.kv, there.fixed, there.compute) == (found.kv, found.fixed, found.compute)
        assert made.context.params.n_seq_max == 3


def test_cells_of_plain_models_are_shared_as_before(tiny: Tiny) -> None:
    with Model.load(tiny()) as model, engine(model, 2, 300, prefix_cells=100) as made:
        assert made._cells._checkpoints is None and made.memory().copies == 0
        with Forecast(model) as forecast:
            assert Copies.of(forecast, Settings(), 2) is None


# without a model


def checkpoint(tokens: list[int], n_bytes: int = 100) -> Checkpoint:
    ids = np.array(tokens, np.int32)
    return Checkpoint(ids, np.zeros(n_bytes - ids.nbytes, np.uint8))


def test_the_longest_that_a_prompt_begins_with() -> None:
    kept = Checkpoints(1000)
    for n in (3, 7, 5):
        kept.add(checkpoint([*range(n)]))
    kept.add(checkpoint([0, 1, 9]))
    for prompt, n_most, n in (([*range(9)], 9, 7), ([*range(9)], 6, 5), ([0, 1, 9, 4], 4, 3)):
        found = kept.find(prompt, n_most)
        assert found is not None and found.tokens.tolist() == prompt[:n]
    assert kept.find([0, 1, 8], 3) is None and kept.find([*range(9)], 2) is None
    assert kept.n_known([*range(6)]) == 5 and kept.n_known([4]) == 0


def test_the_least_recently_used_give_way() -> None:
    kept = Checkpoints(350)
    for first in (1, 2, 3):
        kept.add(checkpoint([first, 0]))
    used = kept.find([1, 0, 0], 3)
    assert used is not None
    kept.use(used)
    kept.add(checkpoint([4, 0]))
    assert [kept.n_known([first, 0]) for first in (1, 2, 3, 4)] == [2, 0, 2, 2]
    kept.add(checkpoint([4, 0], 50))  # in place of the other
    assert kept.n_bytes == 250
    assert not kept.give_way(351) and kept.n_bytes == 250
    assert kept.give_way(350) and kept.n_bytes == 0


def test_where_prompts_part() -> None:
    """There where a copy saves the most, not where two of them happen to go on alike."""
    text = [*range(500)]
    kept = Checkpoints(10**6)
    assert kept.branch(text, [], 0) == 0
    waiting = [[*text[:300], 7, 7], [*text[:303], 7], [*text[:300], 8], [7, 7]]
    assert kept.branch(text, waiting, 0) == 300
    kept.see(text[:450])
    assert kept.branch(text, [], 0) == 450
    assert kept.branch(text, waiting, 0) == 300  # four times 300 are more than 450
    assert kept.branch(text, waiting, 290) == 450
    assert kept.branch(text, [[*text[:200]]], 0) == 450  # one that can't use more
    kept.add(checkpoint(text[:300], 2000))
    assert kept.branch(text, waiting, 0) == 450
    kept.add(checkpoint(text[: 450 - LEAST + 1], 2000))
    assert kept.branch(text, waiting, 0) == 0
    # what is there is of no use to those that may use less of it
    assert kept.branch(text, [text[:200]], 0) == 200
    # nor is what an earlier prompt has of its own to those that part from it
    kept.see([*text[:100], *[7] * 100])
    kept.add(checkpoint([*text[:100], *[7] * 100], 2000))
    assert kept.branch([*text[:100], *[8] * 100], [], 0) == 100


def test_an_engine_may_be_closed_with_copies(tiny_arch: Tiny) -> None:
    with Model.load(tiny_arch(arch="lfm2")) as model:
        made = ParallelEngine(model, n_parallel=1, n_cells=200, prefix_cells=PLENTY)
        made.submit(Request(tuple(random_tokens(60)), 5), 0)
        while made.busy:
            made.step()
        assert made.memory().copies > 0
        made.close()
