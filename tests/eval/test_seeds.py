"""Samples of several seeds in one run: made, resumed, grouped."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from scope_cpp.engine.model import Model
from scope_cpp.errors import UsageError
from scope_cpp.eval.asked import Asked
from scope_cpp.eval.config import differences
from scope_cpp.eval.folder import RunFolder
from scope_cpp.eval.prepare import read_items
from scope_cpp.eval.progress import Status
from scope_cpp.eval.record import Prediction
from scope_cpp.eval.report import render, tables
from scope_cpp.eval.sample import Stop
from scope_cpp.eval.task import Item, Source
from scope_cpp.eval.tasks import find
from tests.eval.counting import Counting, evaluation, run

MADE = Counting.items


@pytest.fixture
def seeded(counting: Counting, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the prompts depend on the seed, and not the ids, as those of a task may."""

    def items(self: Counting, source: Source) -> list[Item]:
        return [replace(i, prompt=f"{i.prompt} {source.seed}") for i in MADE(self, source)]

    monkeypatch.setattr(Counting, "items", items)


def asked(*seeds: int, limit: int | None = 2) -> dict[str, object]:
    return {"asked": {"seeds": seeds, "limit": limit}}


def _full(folder: Path) -> list[Prediction]:
    return [p for p in RunFolder.open(folder).predictions() if p.row == "full"]


def test_seeds_take_turns_and_the_limit_is_of_each(
    model: Model, tmp_path: Path, seeded: None
) -> None:
    found = evaluation(model, tmp_path / "run", **asked(3, 5))
    assert [item.id for item in found.items] == ["0, seed 3", "0, seed 5", "1, seed 3", "1, seed 5"]
    assert [item.prompt[-1] for item in found.items] == ["3", "5", "3", "5"]


def test_items_that_name_their_seed_are_those_of_a_run_of_one(model: Model) -> None:
    task, options = find("reference"), ("questions=4", "facts=5", "n=1")
    one, _ = read_items(task, Asked("reference", options, seeds=(2,)), model, print)
    two, seeds = read_items(task, Asked("reference", options, seeds=(1, 2)), model, print)
    assert [item for item in two if seeds[item.id] == 2] == one
    assert [item.id for item in two] == ["uniform-1-0", "uniform-2-0", "hubs-1-0", "hubs-2-0"]


def test_results_are_grouped_by_seed(model: Model, tmp_path: Path, seeded: None) -> None:
    result = run(model, tmp_path / "both", **asked(3, 5))
    alone = run(model, tmp_path / "one", **asked(5))
    for record, one in zip(result.records, alone.records, strict=True):
        assert list(record["seeds"]) == ["3", "5"]
        assert record["seeds"]["5"]["value"] == one["score"]["value"]
        assert one["seeds"] == {}
    assert {"seed 3", "seed 5"} <= {column.title for column in tables(result)[1][0]}
    assert "seed 3, 5," in render(result, "md")


def test_a_run_of_several_seeds_goes_on(model: Model, tmp_path: Path, seeded: None) -> None:
    stop = Stop()

    def after_five(status: Status) -> None:
        assert status.n_all == 2 * 2 * 3
        stop.asked = int(status.n_done >= 5)

    folder = tmp_path / "part"
    part = evaluation(model, folder, **asked(3, 5)).run(stop, after_five)
    kept = RunFolder.open(folder).predictions()
    assert part.interrupted and len(kept) == 5
    rest = run(model, folder, **asked(3, 5))
    assert RunFolder.open(folder).predictions()[:5] == kept
    whole = run(model, tmp_path / "whole", **asked(3, 5))
    assert [r["seeds"] for r in rest.records] == [r["seeds"] for r in whole.records]
    with pytest.raises(UsageError, match="seed 3 instead of 3, 5"):
        evaluation(model, folder, **asked(3))


def test_a_run_of_an_earlier_version_had_one_seed(
    model: Model, tmp_path: Path, seeded: None
) -> None:
    config = evaluation(model, tmp_path / "run", **asked(3)).folder.config
    old = {key: value for key, value in config.items() if key != "seeds"}
    assert differences(old, config) == []
    assert differences({**old, "seed": 4}, config) == ["seed 3 instead of 4"]


def test_seeds_that_change_nothing_are_refused(
    model: Model, tmp_path: Path, counting: Counting
) -> None:
    with pytest.raises(UsageError, match="the same for every seed here: give one --seed"):
        evaluation(model, tmp_path / "run", **asked(3, 5))
    warm = evaluation(model, tmp_path / "run", asked={"seeds": (3, 5), "temp": 1.0, "limit": 1})
    one, other = (p.output for p in _full(warm.run(Stop()).folder))
    assert one != other, "each seed draws its own output"
    with pytest.raises(UsageError, match="--seed 3, -1: give 0 or more"):
        Asked("counting", seeds=(3, -1))
