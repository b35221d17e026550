"""A run's folder: killed, full, damaged, locked, of another run."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from scope_cpp.engine.model import Model
from scope_cpp.errors import ScopeError, UsageError
from scope_cpp.eval import folder as folder_module
from scope_cpp.eval.folder import RunFolder
from scope_cpp.eval.progress import Status
from scope_cpp.eval.record import Prediction
from scope_cpp.eval.run import Evaluation
from scope_cpp.eval.sample import Stop
from scope_cpp.eval.task import Output, Score
from tests.eval.counting import PROMPTS, Counting, evaluation, run

ROOT = Path(__file__).resolve().parents[2]
VOLATILE = ("prompt_seconds", "generation_seconds", "score_seconds", "select_seconds",
            "move_seconds")  # fmt: skip


def steady(path: Path) -> dict[tuple[str, str], dict[str, Any]]:
    """Predictions without times."""
    found = {}
    for prediction in RunFolder.open(path).predictions():
        values = prediction.to_json()
        values["stats"] = {k: v for k, v in values["stats"].items() if k not in VOLATILE}
        found[prediction.key] = values
    return found


def lines_of(path: Path) -> list[bytes]:
    file = path / "predictions.jsonl"
    return file.read_bytes().split(b"\n")[:-1] if file.is_file() else []


def edit(path: Path, number: int, **values: Any) -> None:
    """Change fields of one line."""
    lines = lines_of(path)
    lines[number] = json.dumps({**json.loads(lines[number]), **values}).encode()
    (path / "predictions.jsonl").write_bytes(b"".join(line + b"\n" for line in lines))


# killed


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")
def test_a_killed_run_goes_on_and_loses_nothing(
    model: Model, tmp_path: Path, finished: Path
) -> None:
    kept: list[bytes] = []
    for where, number in (("token", 30), ("write", 3), ("token", 90), ("write", 2)):
        child = subprocess.run(
            [sys.executable, "-m", "tests.eval.killed_child", str(model.path),
             str(tmp_path / "killed"), where, str(number)],
            cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True,
        )  # fmt: skip
        assert child.returncode == -signal.SIGKILL, child.stderr.decode()
        whole = lines_of(tmp_path / "killed")
        assert whole[: len(kept)] == kept
        kept = whole
    assert 3 <= len(kept) < 3 * len(PROMPTS)
    half = (tmp_path / "killed" / "predictions.jsonl").read_bytes().rpartition(b"\n")[2]
    assert half and not half.endswith(b"}")
    done = run(model, tmp_path / "killed")
    assert lines_of(tmp_path / "killed")[: len(kept)] == kept
    assert not done.interrupted
    undisturbed = run(model, finished)
    assert steady(tmp_path / "killed") == steady(finished)
    assert [r["score"] for r in done.records] == [r["score"] for r in undisturbed.records]


# full


def test_a_full_disk_ends_the_run_and_keeps_what_is_finished(
    model: Model, tmp_path: Path, counting: Counting, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, calls = os.write, 0

    def full(descriptor: int, data: bytes) -> int:
        nonlocal calls
        calls += 1
        if calls < 4:
            return write(descriptor, data)
        if calls == 4:
            return write(descriptor, data[:100])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(folder_module.os, "write", full)
    with pytest.raises(ScopeError, match="cannot be written: No space left on device"):
        run(model, tmp_path / "run")
    monkeypatch.undo()
    assert len(RunFolder.open(tmp_path / "run").predictions()) == 3


def test_metrics_are_replaced_whole(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = RunFolder.open(finished)
    before = folder.metrics()

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(folder_module.os, "fsync", full)
    with pytest.raises(ScopeError, match="No space left"):
        folder.write_metrics({"rows": []})
    assert folder.metrics() == before


# of another run


@pytest.mark.parametrize(
    ("changes", "phrase"),
    [
        ({"asked": {"limit": 2}}, "other samples"),
        ({"asked": {"seeds": (3,)}}, "seed 3 instead of 0"),
        ({"asked": {"template": True}}, "other --template"),
        ({"asked": {"temp": 0.5}}, "temperature 0.5 instead of 0.0"),
        ({"asked": {"log_samples": True}}, "other --log-samples"),
        ({"betas": (17,)}, "row 'scope-slide' with other beta"),
    ],
)
def test_another_run_is_refused_by_what_differs(
    model: Model, tmp_path: Path, counting: Counting, changes: dict[str, Any], phrase: str
) -> None:
    evaluation(model, tmp_path / "run")
    with pytest.raises(UsageError) as err:
        evaluation(model, tmp_path / "run", **changes)
    assert phrase in str(err.value)
    assert "--out" in str(err.value)


def test_rows_may_be_added_and_left_out(
    model: Model, finished: Path, counting: Counting, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = RunFolder.open(finished).predictions()
    rows = [row["name"] for row in RunFolder.open(finished).config["rows"]]
    fewer = run(model, finished, names=("h2o",))
    assert [record["row"] for record in fewer.records] == rows
    assert RunFolder.open(finished).predictions() == before
    more = run(model, finished, names=("full", "streaming-llm"))
    assert [record["row"] for record in more.records] == [*rows, "streaming-llm"]
    assert RunFolder.open(finished).predictions()[: len(before)] == before
    assert more.n_finished == more.n_all == 4 * len(PROMPTS)
    assert not more.interrupted and RunFolder.open(finished).metrics()["complete"]


def test_what_was_left_by_an_earlier_command_is_unfinished(
    model: Model, tmp_path: Path, counting: Counting
) -> None:
    stop = Stop()

    def after_two(status: Status) -> None:
        stop.asked = int(status.n_done >= 2)

    evaluation(model, tmp_path / "run").run(stop, after_two)
    later = run(model, tmp_path / "run", names=("full", "tova"))
    assert not later.interrupted, "all that was asked now is there"
    assert later.n_finished < later.n_all == 4 * len(PROMPTS)
    assert RunFolder.open(tmp_path / "run").metrics()["complete"] is False


def test_another_model_is_refused_under_the_same_name(
    model: Model, tmp_path: Path, counting: Counting, tiny: Callable[..., Path]
) -> None:
    evaluation(model, tmp_path / "run")
    with (
        Model.load(tiny(seed=5)) as other,
        pytest.raises(UsageError, match="holds another run: model"),
    ):
        evaluation(other, tmp_path / "run")


def test_a_fresh_folder_stands_beside_the_old_one(
    model: Model, tmp_path: Path, counting: Counting
) -> None:
    evaluation(model, tmp_path / "run")
    assert evaluation(model, tmp_path / "run", fresh=True).folder.path == tmp_path / "run-2"
    assert evaluation(model, tmp_path / "run", fresh=True).folder.path == tmp_path / "run-3"


def test_the_same_configuration_has_the_same_folder(
    model: Model, tmp_path: Path, counting: Counting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    def path(**changes: Any) -> Path:
        found: Evaluation = evaluation(model, None, **changes)  # type: ignore[arg-type]
        return found.folder.path

    first = path()
    assert first.parent == Path("eval-runs")
    assert first.name.startswith(f"counting-{model.path.stem}-")
    assert path() == first
    assert path(betas=(9,)) != first
    assert path(asked={"seeds": (1,)}) != first


def test_a_folder_with_other_files_is_left_alone(
    model: Model, tmp_path: Path, counting: Counting
) -> None:
    (tmp_path / "letter.txt").write_text("dear")
    with pytest.raises(UsageError, match="has other files in it"):
        evaluation(model, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["letter.txt"]


def test_an_older_beginning_is_told(model: Model, tmp_path: Path, counting: Counting) -> None:
    evaluation(model, tmp_path / "run")
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    config["versions"]["scope_cpp"] = "0.0.1"
    (tmp_path / "run" / "config.json").write_text(json.dumps(config))
    lines: list[str] = []
    evaluation(model, tmp_path / "run", warn=lines.append)
    assert "was begun with scope_cpp 0.0.1" in lines[0]


# damaged, newer, locked


@pytest.mark.parametrize(
    ("number", "values", "phrase"),
    [
        (1, {"row": "nonsense"}, "line 2 is of a row 'nonsense'"),
        (2, {"output": None}, "line 3 is no prediction (neither an output nor an error)"),
        (0, {"scores": {"strict": {"correct": ["x"], "value": 1, "problems": []}}}, "line 1"),
        (0, {"scores": {}}, "line 1 is no prediction (an output without a score)"),
        (0, {"stats": {"cells_seen": None}}, "line 1"),
        (0, {"digest": "0"}, "none of this run's samples"),
        (0, {"item": "nonsense"}, "'nonsense' of 'full' is none of this run's samples"),
    ],
)
def test_a_changed_line_is_named(
    model: Model, finished: Path, number: int, values: dict[str, Any], phrase: str
) -> None:
    edit(finished, number, **values)
    with pytest.raises(ScopeError) as err:
        run(model, finished)
    assert phrase in str(err.value)
    assert "remove" in str(err.value)


def test_a_removed_line_runs_again(model: Model, finished: Path) -> None:
    before = steady(finished)
    lines = lines_of(finished)
    (finished / "predictions.jsonl").write_bytes(b"\n".join([*lines[:3], *lines[4:]]) + b"\n")
    with pytest.raises(ScopeError, match="was not made of"):
        RunFolder.open(finished).metrics()
    run(model, finished)
    assert steady(finished) == before
    assert RunFolder.open(finished).metrics()["complete"]


def test_a_repeated_line_is_named(finished: Path) -> None:
    lines = lines_of(finished)
    (finished / "predictions.jsonl").write_bytes(b"\n".join([*lines, lines[4]]) + b"\n")
    with pytest.raises(ScopeError, match="line 13 repeats item"):
        RunFolder.open(finished).predictions()


@pytest.mark.parametrize("name", ["config.json", "metrics.json"])
@pytest.mark.parametrize(
    ("text", "phrase"),
    [
        ('{"format": 99}', "has format 99, this version of scope-cpp knows 1: update it"),
        ("{}", "is damaged (no format)"),
        ("[]", "is damaged (no format)"),
        ('{"format"', "is damaged ("),
    ],
)
def test_a_newer_or_damaged_file_is_named(
    finished: Path, name: str, text: str, phrase: str
) -> None:
    (finished / name).write_text(text)
    with pytest.raises(ScopeError) as err:
        RunFolder.open(finished).metrics()
    assert phrase in str(err.value)
    assert name in str(err.value)


def test_a_config_that_lacks_something_is_named(finished: Path) -> None:
    (finished / "config.json").write_text('{"format": 1, "model": {}}')
    with pytest.raises(ScopeError, match=r"config\.json is damaged \(no task\)"):
        RunFolder.open(finished)


def test_links_in_a_folder_are_not_followed(finished: Path, tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_text("precious")
    for name in ("metrics.json", "predictions.jsonl"):
        (finished / name).rename(tmp_path / name)
        (finished / name).symlink_to(precious)
    folder = RunFolder.open(finished)
    folder.write_metrics({"rows": []})
    with pytest.raises(ScopeError, match="it is a link, which is not"), folder.writing():
        pass
    assert precious.read_text() == "precious"


def test_two_runs_do_not_write_to_one_folder(model: Model, finished: Path) -> None:
    pytest.importorskip("fcntl")
    with (
        RunFolder.open(finished).writing(),
        pytest.raises(ScopeError, match="another process writes to this run"),
    ):
        run(model, finished)


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"holds no run of .* \(no config\.json\)"):
        RunFolder.open(tmp_path)


def test_a_prediction_is_the_same_after_a_line() -> None:
    output = Output("a\nb\u2028\ud800", 3, "stop", (1.5, 2.0))
    whole = Prediction(
        "full", "7", "g", "0f", output, {"strict": Score((1.0, 0.5), 0.75, ("odd",))},
        {"cells_seen": 3}, 0, None, {"prompt": "p", "gold": [1]},
    )  # fmt: skip
    failed = Prediction("full", "8", "g", "0f", error="too long")
    for prediction in (whole, failed):
        line = json.dumps(prediction.to_json())
        assert "\n" not in line
        assert Prediction.from_json(json.loads(line)) == prediction
