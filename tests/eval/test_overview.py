"""A run in one table: rows by budgets."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from scope_cpp.engine.model import Model
from scope_cpp.errors import ScopeError, UsageError
from scope_cpp.eval.overview import markdown, tables
from scope_cpp.eval.progress import Status
from scope_cpp.eval.result import Result, read_result
from scope_cpp.eval.sample import Stop
from tests.eval.counting import Counting, evaluation, run

Cells = Callable[[str, str], str]


def cells_of(result: Result, number: int = 0) -> Cells:
    """Return what gives the text at a row and a column of a table."""
    columns, lines = tables(result)[number]
    by_title = {column.title: column for column in columns}
    return lambda row, title: next(
        by_title[title].cell(line) for line in lines if line["row"] == row
    )


@pytest.fixture
def grid(model: Model, tmp_path: Path, counting: Counting) -> Result:
    command = ["scope", "eval", "run", "a b.gguf"]
    return run(model, tmp_path / "grid", betas=(8, 20), command=command)


def test_rows_have_their_scores_at_every_budget(grid: Result) -> None:
    cell = cells_of(grid)
    records = {record["row"]: record for record in grid.records}
    for beta in (8, 20):
        record = records[f"h2o, beta {beta}"]
        groups = (f"{record['groups'][name]['value']:.3f}" for name in ("even", "odd"))
        expected = " / ".join(text.removeprefix("0") for text in groups)
        assert cell("h2o", f"β = {beta}: even / odd") == expected
    columns, lines = tables(grid)[0]
    assert [line["row"] for line in lines] == ["full", "scope-slide", "h2o"]
    first, second = (columns[i].cell(lines[2]) for i in (2, 4))
    for text, beta in ((first, 8), (second, 20)):
        score = records[f"h2o, beta {beta}"]["score"]
        numbers = [f"{x:.3f}".removeprefix("0") for x in (score["value"], *score["ci"])]
        assert text == "{} [{}, {}]".format(*numbers)
    assert columns[4].cell(lines[0]) == "", "the full cache has no budget"


def test_a_document_has_the_command_and_what_llama_cpp_counted(grid: Result) -> None:
    text = markdown(grid)
    assert text.startswith(
        "    scope eval run 'a b.gguf'\n\n| row | β = 8: even / odd | mean [95 %]"
    )
    most = max(r["cells_peak"] for r in grid.records if r["row"].endswith("beta 8"))
    assert f"{most} (β = 8)" in text
    assert "Unfinished" not in text


def test_a_folder_is_read_as_it_was_left(model: Model, tmp_path: Path, grid: Result) -> None:
    assert read_result(grid.folder) == grid
    stop = Stop()

    def after_two(status: Status) -> None:
        stop.asked = int(status.n_done >= 2)

    part = evaluation(model, tmp_path / "part").run(stop, after_two)
    read = read_result(part.folder)
    assert read.records == json.loads(json.dumps(part.records))
    text = markdown(read)
    assert "Unfinished: 2 of 12 samples." in text
    # one group of two is finished
    assert text.splitlines()[4].startswith("| full | ")
    assert "h2o" not in text.split("Brackets")[0]


def test_one_budget_and_no_groups_show_the_quarters(
    model: Model, tmp_path: Path, counting: Counting, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = run(model, tmp_path / "run", asked={"limit": 1}, betas=(8,))
    cell = cells_of(result)
    quarters = next(r["quarters"] for r in result.records if r["row"] == "h2o")
    expected = " ".join(f"{q:.3f}".removeprefix("0") for q in quarters)
    assert cell("h2o", "quarters") == expected
    assert "[" not in cell("h2o", "β = 8: mean [95 %]"), "one sample has no interval"


def test_groups_that_a_row_has_not_are_left_open(grid: Result) -> None:
    records = [dict(record) for record in grid.records]
    records[-1]["groups"] = {"odd": records[-1]["groups"]["odd"]}
    cell = cells_of(replace(grid, records=records))
    assert cell("h2o", "β = 20: even / odd").startswith("– / ")


def test_what_has_no_table_is_said(model: Model, tmp_path: Path, grid: Result) -> None:
    with pytest.raises(UsageError, match="holds no run of"):
        read_result(tmp_path)
    (grid.folder / "metrics.json").unlink()
    with pytest.raises(ScopeError, match="let the run go on"):
        read_result(grid.folder)
    nothing = [{**record, "score": None} for record in grid.records]
    with pytest.raises(ScopeError, match="has finished no sample yet"):
        tables(replace(grid, records=nothing))
