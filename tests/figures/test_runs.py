"""Runs as the figures read them: one, or several of the same samples as one."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from scope_cpp.errors import ScopeError, UsageError
from scope_cpp.figures.runs import ACCURACY, LOSS, cells_of, numbered, open_run, open_runs

from .make_run import make_run, row

FULL = {row("full"): [[1, 1]]}


def test_no_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="holds no run of 'scope eval run'"):
        open_run(str(tmp_path / "no"))


def test_a_run_without_metrics_is_told_to_go_on(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", FULL)
    (folder / "metrics.json").unlink()
    with pytest.raises(ScopeError, match="let the run go on"):
        open_run(str(folder))


def test_rows_without_an_output_are_left_out(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", {**FULL, row("h2o", 48): []})
    assert [record["row"] for record in open_run(str(folder)).records] == ["full"]
    empty = make_run(tmp_path / "empty", {row("full"): []})
    with pytest.raises(UsageError, match="no sample has an output yet"):
        open_run(str(empty))


def test_runs_of_the_same_samples_are_one(tmp_path: Path) -> None:
    paths = [
        str(make_run(tmp_path / str(beta), {**FULL, row("h2o", beta): [[1, beta / 100]]}))
        for beta in (10, 20)
    ]
    run = open_runs(paths)
    assert [(r["label"], cells_of(r)) for r in run.records[1:]] == [("h2o", 10), ("h2o", 20)]
    assert [record["label"] for record in run.records].count("full") == 1
    by_row = {sample.row: sample.scores[run.scorer].correct for sample in run.samples}
    assert by_row == {"full": (1, 1), "h2o": (1, 0.1), "h2o, 20 cells": (1, 0.2)}


def test_a_share_is_as_many_cells_as_it_came_to(tmp_path: Path) -> None:
    for budget, n in (("2k", 2048), ("50%", 150)):
        path = make_run(tmp_path / budget, {row("h2o", budget=budget): [[1, 0]]})
        assert cells_of(open_run(str(path)).records[0]) == n


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"model": "b.gguf"}, "model b.gguf instead of a.gguf"),
        ({"seed": 3}, "seed 3 instead of 0"),
        ({"task": "gsm8k"}, "task gsm8k instead of reference"),
        ({"items": {"n": 1, "sha256": "1"}}, "other samples"),
    ],
)
def test_runs_that_can_not_be_compared(
    tmp_path: Path, other: dict[str, object], message: str
) -> None:
    one = make_run(tmp_path / "one", FULL)
    two = make_run(tmp_path / "two", FULL, **other)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=f"can't be drawn beside .*{message}"):
        open_runs([str(one), str(two)])


def test_one_name_for_two_methods(tmp_path: Path) -> None:
    one = make_run(tmp_path / "one", {**FULL, row("mine", 48, policy="h2o"): [[1, 0]]})
    two = make_run(tmp_path / "two", {**FULL, row("mine", 48, policy="scope-slide"): [[1, 0]]})
    with pytest.raises(UsageError, match="its row 'mine' differs from that"):
        open_runs([str(one), str(two)])
    shutil.copytree(one, tmp_path / "copy")
    assert len(open_runs([str(one), str(tmp_path / "copy")]).records) == 2


def test_a_series_looks_the_same_whatever_else_is_shown(tmp_path: Path) -> None:
    rows = {row("h2o", 48): [[1, 1]], **FULL, row("scope-slide", 48): [[1, 1]]}
    run = open_run(str(make_run(tmp_path / "run", rows)))
    assert numbered(run.records) == {"full": 0, "h2o": 1, "scope-slide": 2}


def test_what_a_score_is(tmp_path: Path) -> None:
    run = open_run(str(make_run(tmp_path / "run", FULL)))
    assert run.measure is ACCURACY
    assert (ACCURACY.show(0.985), LOSS.show(1.5)) == ("98.5%", "1.500")
    assert ACCURACY.fill(0.5, most=0.5) == 0.5
    assert LOSS.fill(1.5, most=2.0) == 0.75
    assert run.describe("48 cells") == "a.gguf, reference, 1 sample, 48 cells"


def test_a_run_that_is_not_finished_says_so(tmp_path: Path) -> None:
    one = make_run(tmp_path / "one", FULL)
    two = make_run(tmp_path / "two", FULL, complete=False)
    assert open_runs([str(one), str(two)]).describe() == "a.gguf, reference, 1 sample, unfinished"
