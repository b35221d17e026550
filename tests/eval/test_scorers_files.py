"""Files of outputs: recognized by their fields, paired by id, the rest goes on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from scope_cpp.errors import ScopeError, UsageError
from scope_cpp.eval.score import render
from scope_cpp.eval.score import score as score_of
from scope_cpp.eval.scorers.files import FileScore, score_file
from scope_cpp.eval.tasks.longgenbench import LongGenBenchMMLU
from tests.eval.test_tasks import FIXTURES

NUMBERS = [json.loads(line) for line in (FIXTURES / "longgenbench_numbers.jsonl").open()]
CHOICES = [json.loads(line) for line in (FIXTURES / "longgenbench_choices.jsonl").open()]
GOOD = "Answer_3: The answer is 7. Answer_4: The answer is $2,500. Answer_5: The answer is 4."


def write(tmp_path: Path, *rows: Any) -> Path:
    path = tmp_path / "outputs.jsonl"
    lines = (row if isinstance(row, str) else json.dumps(row) for row in rows)
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def score(
    path: Path, task: str | None = None, scorer: str | None = None, data: Path | None = None
) -> tuple[FileScore, list[str]]:
    warnings: list[str] = []
    return score_file(path, task, scorer, data, warnings.append), warnings


def test_the_authors_form_needs_no_data(tmp_path: Path) -> None:
    path = write(tmp_path, {**NUMBERS[0], "pred": GOOD}, {**NUMBERS[1], "pred": "?"})

    found, warnings = score(path)

    assert (found.task, found.scorer, found.n) == ("longgenbench-gsm8k", "strict", 2)
    assert found.total == pytest.approx(1 / 3)
    assert found.percent == 33.3333
    assert found.by_question == (0.5, 0.5, 0)
    assert found.by_item == {"line 1": pytest.approx(2 / 3), "line 2": 0}
    assert found.problems == ("line 2: no answer found in the output",)
    assert (found.missing, warnings) == ((), [])
    assert score(path, scorer="authors")[0].by_item == {"line 1": pytest.approx(1 / 3), "line 2": 0}


def test_a_score_has_an_interval_and_so_has_a_difference(tmp_path: Path) -> None:
    rows = [{**NUMBERS[0], "pred": GOOD}, {**NUMBERS[1], "pred": "?"}]
    found = score_of(write(tmp_path, *rows), print, seed=1)

    low, high = found["ci"]
    assert (low, high) == (0, pytest.approx(2 / 3)), "one of both outputs twice"
    other = found["others"]["authors"]
    assert other["ci"] == (0, pytest.approx(1 / 3))
    assert other["difference_ci"] == (pytest.approx(-1 / 3), 0), "of pairs: never two thirds"
    text = render(found, as_json=False)
    assert "strict: 33.3333 % [0.00, 66.67]\n" in text
    assert "authors: 16.6667 % [0.00, 33.33] (-16.6667 [-33.33, +0.00] against strict; " in text
    assert text.count("Brackets: 95 % bootstrap") == 1
    plain = json.loads(render(found, as_json=True))
    assert plain["ci"] == [low, high] and "sample" not in plain


def test_one_output_has_no_interval(tmp_path: Path) -> None:
    found = score_of(write(tmp_path, {**NUMBERS[0], "pred": GOOD}), print)
    assert found["ci"] is None is found["others"]["authors"]["difference_ci"]
    assert "[" not in render(found, as_json=False)


def test_outputs_that_are_missing_are_drawn_as_wrong(tmp_path: Path) -> None:
    path = write(tmp_path, {"id": "own/2", "output": "\\boxed{90}"})
    found = score_of(path, print, task="math500", data=FIXTURES / "math500.jsonl")
    assert (found["total"], found["ci"], found["missing"]) == (0.5, (0, 1), ("own/1",))


def test_letters_are_csqa_or_mmlu_by_the_prompt(tmp_path: Path) -> None:
    row = {**CHOICES[0], "pred": "Answer_2: The answer is (B)."}

    assert score(write(tmp_path, row))[0].task == "longgenbench-csqa"
    framed = f"{LongGenBenchMMLU.system}\n{row['prompt']}"
    found, _ = score(write(tmp_path, {**row, "prompt": framed}))
    assert (found.task, found.total) == ("longgenbench-mmlu", 0.5)


def test_bad_rows_are_named_and_the_rest_is_scored(tmp_path: Path) -> None:
    good = {**NUMBERS[0], "pred": GOOD}
    path = write(
        tmp_path,
        good,
        '{"prompt": ',
        {**good, "pred": None},
        {**good, "answers": []},
        {**CHOICES[0], "pred": GOOD},
        good,
    )

    found, warnings = score(path)

    assert list(found.by_item) == ["line 1", "line 6"]
    assert [warning.split(": ")[0] for warning in warnings] == [
        f"{path}, line {n}" for n in (2, 3, 4, 5)
    ]


def test_outputs_of_other_tasks_are_paired_by_id(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        {"id": "own/2", "output": "\\boxed{90}"},
        {"id": "own/3", "output": "\\boxed{1}"},
        {"id": "own/2", "output": "\\boxed{1}"},
        {"output": "\\boxed{1}"},
    )

    found, warnings = score(path, "math500", data=FIXTURES / "math500.jsonl")

    assert found.by_item == {"own/1": 0, "own/2": 1}
    assert (found.total, found.n, found.missing) == (0.5, 2, ("own/1",))
    assert found.problems == ()
    assert [warning.partition(": ")[2] for warning in warnings] == [
        "no item has the id 'own/3'; skipped",
        "a second output of 'own/2'; skipped",
        "no field 'id'; skipped",
    ]


@pytest.mark.parametrize(
    ("row", "arguments", "reason"),
    [
        ({"id": "own/1", "output": ""}, {}, "does not hold the answers: name the task by --task"),
        ({"id": "own/1", "output": ""}, {"task": "math500"}, "reads a file: give it by --data"),
        ({**NUMBERS[0], "pred": ""}, {"task": "needle"}, "outputs on LongGenBench, not on needle"),
        (
            {**NUMBERS[0], "pred": ""},
            {"scorer": "kind"},
            "no scorer 'kind'; valid are strict, auth",
        ),
        ({**NUMBERS[0], "pred": ""}, {"data": FIXTURES / "gsm8k.jsonl"}, "leave out --data"),
        ({**NUMBERS[0], "pred": ""}, {"task": "mmlu"}, "unknown task 'mmlu'"),
    ],
)
def test_what_does_not_go_together_is_refused(
    row: dict[str, Any], arguments: dict[str, Any], reason: str, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=reason):
        score(write(tmp_path, row), **arguments)


@pytest.mark.parametrize(
    ("rows", "task", "reason"),
    [
        (["{"], None, r"no output to score \(line 1: no JSON"),
        ([{"answers": ["A"], "pred": ""}], None, r"no output to score \(line 1: no field 'prompt'"),
        ([{"id": "other", "output": ""}], "math500", r"no item has the id 'other'"),
    ],
)
def test_a_file_without_any_output_is_an_error(
    rows: list[Any], task: str | None, reason: str, tmp_path: Path
) -> None:
    data = FIXTURES / "math500.jsonl" if task else None
    with pytest.raises(ScopeError, match=reason):
        score(write(tmp_path, *rows), task, data=data)


def test_an_absent_file_is_a_wrong_request(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="does not exist: give a file of outputs"):
        score(tmp_path / "none.jsonl")
    with pytest.raises(ScopeError, match="is empty"):
        score(write(tmp_path, ""))
