"""Two runs: what is compared, and what is not."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from scope_cpp.engine.model import Model
from scope_cpp.errors import UsageError
from scope_cpp.eval import compare as compare_module
from scope_cpp.eval.compare import COLUMNS, Comparison, compare, render
from scope_cpp.eval.folder import RunFolder
from tests.eval.counting import PROMPTS, Longest, run


def compared(a: Path, b: Path, warn: Callable[[str], None] = print, **more: Any) -> Comparison:
    return compare(RunFolder.open(a), RunFolder.open(b), warn, **more)


def changed(folder: Path, name: str, change: Callable[[dict[str, Any]], object]) -> Path:
    """A copy of a run with all its predictions changed."""
    copy = Path(shutil.copytree(folder, folder.with_name(name)))
    lines = (copy / "predictions.jsonl").read_text().splitlines()
    values = [json.loads(line) for line in lines]
    for each in values:
        change(each)
    (copy / "predictions.jsonl").write_text("".join(json.dumps(v) + "\n" for v in values))
    return copy


def reconfigured(folder: Path, name: str, **values: Any) -> Path:
    copy = Path(shutil.copytree(folder, folder.with_name(name)))
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, **values}))
    return copy


def always_right(prediction: dict[str, Any]) -> None:
    for score in prediction["scores"].values():
        score["correct"] = [1.0] * 4


def test_a_run_does_not_differ_from_itself(finished: Path) -> None:
    lines: list[str] = []
    found = compared(finished, finished, lines.append)
    assert [record["row"] for record in found.records] == ["full", "scope-slide", "h2o"]
    for record in found.records:
        assert record["n"] == len(PROMPTS)
        assert (record["difference"], record["low"], record["high"]) == (0, 0, 0)
        assert record["p"] == 1
    assert lines == []


def test_differences_are_paired_and_have_a_sign(finished: Path) -> None:
    better = changed(finished, "better", always_right)
    there, back = compared(better, finished), compared(finished, better)
    for one, other in zip(there.records, back.records, strict=True):
        assert one["a"] == 1 and other["b"] == 1
        assert one["difference"] == -other["difference"] > 0
        assert one["low"] == pytest.approx(-other["high"])
        # all four items gained: one of 2^3 ways to change places is as large, and its mirror
        assert one["p"] == other["p"] == 2 / 2 ** len(PROMPTS)


def test_only_shared_samples_count(finished: Path, model: Model, tmp_path: Path) -> None:
    run(model, tmp_path / "two", asked={"limit": 2}, names=("full", "h2o"))
    found = compared(finished, tmp_path / "two")
    assert [(record["row"], record["n"]) for record in found.records] == [("full", 2), ("h2o", 2)]
    assert all(record["difference"] == 0 for record in found.records)


def test_rows_of_other_names_are_compared_in_pairs(finished: Path) -> None:
    found = compared(finished, finished, rows=["scope-slide = h2o"])
    (record,) = found.records
    assert record["row"] == "scope-slide / h2o"
    metrics = {row["row"]: row for row in RunFolder.open(finished).metrics()["rows"]}
    assert record["difference"] == pytest.approx(-metrics["h2o"]["vs_scope"]["value"])
    low, high = metrics["h2o"]["vs_scope"]["ci"]
    assert (record["low"], record["high"]) == pytest.approx((-high, -low))


def test_a_total_of_its_own_is_compared_too(
    finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compare_module, "find", lambda name: Longest())
    (record, *_) = compared(finished, changed(finished, "better", always_right)).records
    full = [p for p in RunFolder.open(finished).predictions() if p.row == "full"]
    assert record["a"] == max(p.scores["strict"].value for p in full)


def test_the_scorer_is_chosen(finished: Path) -> None:
    assert compared(finished, finished, scorer="lenient").scorer == "lenient"
    with pytest.raises(UsageError, match="no scorer 'nonsense'; valid are strict, lenient"):
        compared(finished, finished, scorer="nonsense")


@pytest.mark.parametrize(
    ("values", "phrase"),
    [
        ({"seeds": [7, 8]}, "two seeds: 0 and 7, 8"),
        ({"template": True}, "two prompt formats"),
        ({"model": {"name": "other.gguf", "sha256_of_ends": "0"}}, "two models"),
    ],
)
def test_what_makes_a_difference_besides_is_told(
    finished: Path, values: dict[str, Any], phrase: str
) -> None:
    lines: list[str] = []
    compared(finished, reconfigured(finished, "other", **values), lines.append)
    assert len(lines) == 1
    assert phrase in lines[0]


def test_runs_that_cannot_be_compared_are_refused(finished: Path, tmp_path: Path) -> None:
    def refused(other: Path, **more: Any) -> str:
        with pytest.raises(UsageError) as err:
            compared(finished, other, **more)
        return str(err.value)

    other = reconfigured(finished, "task", task="perplexity")
    assert "two tasks" in refused(other) and "perplexity" in refused(other)
    other = changed(finished, "data", lambda p: p.update(digest="0"))
    assert "the same names and other contents" in refused(other)
    other = changed(finished, "items", lambda p: p.update(item="x" + p["item"]))
    assert "no sample in common" in refused(other)
    other = Path(shutil.copytree(finished, tmp_path / "empty"))
    (other / "predictions.jsonl").unlink()
    assert "has finished no sample yet" in refused(other)
    other = changed(finished, "rows", lambda p: p.update(row="other"))
    other = reconfigured(other, "renamed", rows=[{"name": "other"}])
    lines = (other / "predictions.jsonl").read_text().splitlines()[:1]
    (other / "predictions.jsonl").write_text(lines[0] + "\n")
    assert "no row in common" in refused(other) and "--rows A=B" in refused(other)
    for text in ("full", "=full", "full=", "full=x"):
        assert "write it as A=B" in refused(finished, rows=[text])
        assert "has 'full', 'scope-slide', 'h2o'" in refused(finished, rows=[text])


def test_names_of_rows_may_have_an_equals_sign(finished: Path) -> None:
    name = "scope-slide:interval=1"

    def rename(prediction: dict[str, Any]) -> None:
        if prediction["row"] == "scope-slide":
            prediction["row"] = name

    other = changed(finished, "other", rename)
    rows = [{"name": row} for row in ("full", name, "h2o")]
    other = reconfigured(other, "renamed", rows=rows)
    (record,) = compared(other, finished, rows=[f"{name}=scope-slide"]).records
    assert (record["n"], record["difference"]) == (len(PROMPTS), 0)


def test_tables_and_json_have_the_same_numbers(finished: Path) -> None:
    found = compared(finished, changed(finished, "better", always_right))
    lines = render(found, as_json=False).splitlines()
    assert lines[0] == "| " + " | ".join(column.title for column in COLUMNS) + " |"
    for line, record in zip(lines[2:5], found.records, strict=True):
        assert f"{record['difference']:+.4f}" in line
    whole = json.loads(render(found, as_json=True))
    assert whole["rows"] == found.records
    assert whole["a"]["config"]["task"] == "counting"
