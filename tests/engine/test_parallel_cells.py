"""Cells of a parallel engine: a hard number, given out first come, first served, and given back."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as examples
from hypothesis import strategies as st

from scope_cpp.engine.model import Model
from scope_cpp.engine.parallel import Request
from scope_cpp.errors import UsageError
from tests.conftest import Tiny
from tests.engine.drive import random_tokens
from tests.engine.rows import drain, engine, n_used, request, run


@pytest.fixture(scope="module")
def model(tiny: Tiny) -> Iterator[Model]:
    with Model.load(tiny()) as model:
        yield model


def test_a_newcomer_waits_until_its_worst_case_is_free(model: Model) -> None:
    """Cells that a running row has not filled yet are promised to it."""
    rows = [request(random_tokens(20, seed=i), 200, budget=90) for i in range(4)]
    with engine(model, 4, 200) as made:
        for i, row in enumerate(rows):
            made.submit(row, i)
        made.step()
        made.step()
        assert (made.n_running, made.n_waiting, n_used(made)) == (2, 2, 20 + 1 + 20)
        most = 0

        def watch() -> None:
            nonlocal most
            most = max(most, made.n_running)

        said = drain(made, watch)
        assert [len(said[i]) for i in range(4)] == [198, 199, 200, 200]
        assert most == 2


def test_a_bounded_engine_holds_several_times_the_rows(model: Model) -> None:
    def rows_at_once(**fields: Any) -> int:
        with engine(model, 16, 512) as made:
            for i in range(16):
                made.submit(request(random_tokens(20, seed=i), 230, **fields), i)
            for _ in range(16):  # one prompt is read in each
                made.step()
            return made.n_running

    assert rows_at_once(policy="full") == 512 // 250
    assert rows_at_once(policy="scope-slide", budget=60) == 512 // 60


def test_first_come_first_served(model: Model) -> None:
    """A row that waits for many cells is not overtaken by one that needs few."""
    sizes = [40, 40, 180, 30, 30]
    rows = [request(random_tokens(10, seed=i), size - 10) for i, size in enumerate(sizes)]
    entered: list[int] = []
    with engine(model, 5, 200) as made:
        for i, row in enumerate(rows):
            made.submit(row, i)
        while made.busy:
            for event in made.step():
                if event.key not in entered:
                    entered.append(event.key)  # type: ignore[arg-type]
    assert entered == [0, 1, 2, 3, 4]


def test_a_row_that_can_never_fit_is_refused_alone(model: Model) -> None:
    with engine(model, 2, 100) as made:
        made.submit(request(random_tokens(30), 40), "fits")
        with pytest.raises(UsageError, match="may need 130 cells, there are 100: give a smaller"):
            made.submit(request(random_tokens(30), 100), "full")
        with pytest.raises(UsageError, match="may need 120 cells"):
            made.submit(request(random_tokens(30), 500, budget=120), "bounded")
        assert made.worst_case(request(random_tokens(30), 500, budget=100)) == 100
        assert list(drain(made)) == ["fits"]


def test_a_row_of_all_cells_runs_alone(model: Model) -> None:
    rows = [request(random_tokens(30, seed=i), 300, budget=256) for i in range(2)]
    with engine(model, 4, 256, prefix_cells=256) as made:
        said = run(made, rows)
    assert [len(events) for events in said] == [300, 300]


def test_what_is_cancelled_is_gone_at_once(model: Model) -> None:
    rows = [request(random_tokens(60, seed=i), 100, budget=90) for i in range(3)]
    with engine(model, 2, 256) as made:
        for i, row in enumerate(rows):
            made.submit(row, i)
        for _ in range(10):
            made.step()
        before = n_used(made)
        assert made.n_running == 2
        made.cancel(0)
        assert n_used(made) == before // 2
        made.cancel(2)  # waits
        made.cancel("nobody")
        assert (made.n_running, made.n_waiting) == (1, 0)
        assert made.positions(0) is made.positions(2) is None
        assert {event.key for event in made.step()} == {1}
        made.submit(rows[0], 0)  # the key is free again
        said = drain(made)
        assert list(said) == [1, 0] and len(said[0]) == 100
        assert n_used(made) == 0


def test_a_cancelled_prompt_leaves_no_cell(model: Model) -> None:
    with engine(model, 2, 600, n_ubatch=16) as made:
        made.submit(request(random_tokens(200), 10, n_ubatch=16), "long")
        made.step()
        assert 0 < n_used(made) < 200
        made.cancel("long")
        assert n_used(made) == 0 and not made.busy


def test_rows_go_on_while_a_prompt_is_read(model: Model) -> None:
    """A prompt takes what the rows that write leave of a batch, each step gives each a token."""
    with engine(model, 3, 600, n_ubatch=16) as made:
        for name in "ab":
            made.submit(request(random_tokens(10), 50, n_ubatch=16), name)
        for _ in range(3):
            made.step()
        made.submit(request(random_tokens(200, seed=2), 5, n_ubatch=16), "long")
        heard = []
        while made.n_running < 3 or made._running[-1].reading:
            used = n_used(made)
            heard.append([event.key for event in made.step()])
            assert n_used(made) - used <= 16
        assert len(heard) == -(-200 // 14)
        assert all(keys[:2] == ["a", "b"] for keys in heard)


def test_positions_are_those_of_the_row(model: Model) -> None:
    with engine(model, 2, 256) as made:
        made.submit(request(random_tokens(40), 100, budget=60, policy="scope-slide"), "row")
        assert made.positions("row") is None
        for _ in range(50):
            made.step()
        positions = made.positions("row")
        assert positions is not None and positions.shape[:2] == (2, 2)
        assert positions.shape[2] <= 60 and positions.max() == 40 + 49 - 1
        assert (positions[:, :, :40] == range(40)).all()


@examples(
    max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    seed=st.integers(0, 2**32), n_parallel=st.integers(1, 5), prefix_cells=st.sampled_from([0, 90])
)
def test_whatever_comes_and_goes(
    model: Model, seed: int, n_parallel: int, prefix_cells: int
) -> None:
    """Rows of random kinds come and are cancelled at random moments, many begin alike."""
    draw = random.Random(seed)
    common = random_tokens(64, seed=99)

    def random_row() -> Request:
        shared = draw.choice([0, 0, 40, 64])
        prompt = common[:shared] + random_tokens(draw.randint(1, 60), seed=draw.randrange(5))
        policy = draw.choice(["scope-slide", "scope-foresight", "h2o", "streaming-llm", "full"])
        n = draw.randint(1, 50)
        budget = None if policy == "full" else len(prompt) + draw.randint(20, 40)
        fields = {"policy": policy, "budget": budget, "n_ubatch": 32}
        return request(prompt, n, draw.choice([0, 1]), seed=7, **fields)

    submitted, ended, cancelled = 0, 0, set()
    with engine(model, n_parallel, 256, prefix_cells=prefix_cells, n_ubatch=32) as made:
        while made.busy or submitted < 12:
            if submitted < 12 and draw.random() < 0.2:
                made.submit(random_row(), submitted)
                submitted += 1
            if draw.random() < 0.03:
                key = draw.randrange(12)
                made.cancel(key)
                cancelled.add(key)
            for event in made.step():
                assert event.error is None and event.response is not None
                ended += event.response.finish_reason is not None
            assert n_used(made) == made.cells_used() <= 256
            assert made.n_running <= n_parallel
            growth = sum(row.growth for row in made._running)
            assert n_used(made) - made._cells.n_resting_cells() + growth <= 256
        assert submitted - len(cancelled) <= ended <= submitted
        assert n_used(made) == made._cells.n_resting_cells() <= prefix_cells
        made._cells.forget_resting()
        assert n_used(made) == 0
        assert len(made._cells._free) == made._cells.context.params.n_seq_max
