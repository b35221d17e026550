"""``scope eval``: runs, their folders, scores, comparisons, and wrong requests."""

from __future__ import annotations

import csv
import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from scope_cli.eval_screen import Lines
from typer.testing import Result

from scope_cpp.eval.folder import RunFolder
from scope_cpp.eval.progress import Running, Status
from scope_cpp.eval.tasks import tasks

from .conftest import Run, assert_refused, spawn

# samples of the reference task that a random model reads quickly
SMALL = ("--task-option", "questions=4", "--task-option", "facts=5", "--task-option", "filler=0",
         "--task-option", "n=1", "--beta", "24")  # fmt: skip
Eval = Callable[..., Result]

posix = pytest.mark.skipif(sys.platform == "win32", reason="terminals and signals of POSIX")


@pytest.fixture
def evaluate(run: Run, tiny: Path, tmp_path: Path) -> Eval:
    def call(*args: object) -> Result:
        return run("eval", "run", tiny, *SMALL, "--out", tmp_path / "run", *args)

    return call


@pytest.fixture
def lines(tmp_path: Path) -> Path:
    """Two samples in a file; the second prompt is longer."""
    path = tmp_path / "samples.jsonl"
    samples: list[dict[str, Any]] = [
        {"id": "a", "mix": "uniform", "prompt": "Facts: a=1\nQ1 a a\n", "expected": "1 2" * 9,
         "answers": [2], "refers": [0]},
        {"id": "b", "mix": "hubs", "prompt": "Facts: b=3 c=4 d=5 e=6 f=7 g=8\nQ1 b c\n",
         "expected": "1 2" * 9, "answers": [7], "refers": [0]},
    ]  # fmt: skip
    path.write_text("".join(json.dumps(sample) + "\n" for sample in samples))
    return path


def test_a_run_is_reported_in_every_form(evaluate: Eval, tmp_path: Path) -> None:
    result = evaluate()
    assert result.exit_code == 0, result.stderr
    tables = result.stdout.split("\n\n")[:3]
    names = [
        "full",
        "scope-foresight",
        "scope-retrieval",
        "scope-slide",
        "scope-adaptive",
        "scope-discontinuous",
        "h2o",
        "streaming-llm",
    ]
    for table in tables:
        assert [line.split("|")[1].strip() for line in table.splitlines()[2:]] == names
    assert "| uniform | hubs |" in tables[1].replace("| hubs | uniform |", "| uniform | hubs |")
    assert f"results go to {tmp_path / 'run'}" in result.stderr

    again = evaluate("-o", "json")
    assert "16 of 16 samples are there already" in again.stderr
    whole = json.loads(again.stdout)
    assert [row["row"] for row in whole["rows"]] == names
    assert whole["complete"] and whole["config"]["versions"]["abi"]
    assert whole["rows"] == RunFolder.open(tmp_path / "run").metrics()["rows"]
    budgets = {row["cells_budget"] for row in whole["rows"][1:]}
    assert len(budgets) == 1

    rows = list(csv.DictReader(io.StringIO(evaluate("--output", "csv").stdout)))
    assert [row["row"] for row in rows] == names
    for row, record in zip(rows, whole["rows"], strict=True):
        assert float(row["score"]) == record["score"]["value"]
        assert float(row["score_low"]) == record["score"]["ci"][0]


@posix
def test_a_terminal_gets_progress_and_drawn_tables(tiny: Path, tmp_path: Path) -> None:
    from .pty_screen import Terminal, strip

    args = ("eval", "run", tiny, *SMALL, "--rows", "full,h2o", "--out", tmp_path / "run")
    with Terminal(*args, columns=120) as terminal:
        assert terminal.exit_code() == 0
        text = terminal.text()
        assert "4/4 samples" in strip(terminal.raw)
    assert "| --- |" not in text
    assert "4/4" not in text  # the bar is gone
    for word in ("score", "vs full", "1st quarter", "attention loss", "h2o"):
        assert word in text


def test_without_a_terminal_a_line_says_how_far_a_sample_is() -> None:
    written: list[str] = []
    times = iter([0.0, 10.0, 10.0, 31.0, 31.0, 40.0, 40.0, 3640.0, 3640.0])
    show = Lines(written.append, lambda: next(times))

    show(Status(2, 12, (Running("h2o", "a", 0, 400),)))
    show(Status(2, 12, (Running("h2o", "a", 0, 400), Running("full", "b", 0, 80))))
    show(Status(2, 12, (Running("h2o", "a", 200, 400), Running("full", "b", 40, 80))))
    show(Status(7, 12, (Running("full", "c", 1200, 2400),)))

    assert written == [
        "2/12 samples, a with h2o: reading its prompt (and 1 more at once)",
        "7/12 samples, c with full: 1,200 of at most 2,400 tokens, about 49:30 left",
    ]


def test_samples_come_from_a_file_and_are_logged(
    evaluate: Eval, run: Run, tiny: Path, lines: Path, tmp_path: Path
) -> None:
    args = ("--data", lines, "--beta", 8, "--rows", "full,h2o", "--out", tmp_path / "run")
    result = run("eval", "run", tiny, *args, "--log-samples", "-j", 2)
    assert result.exit_code == 0, result.stderr
    found = RunFolder.open(tmp_path / "run").predictions()
    prompts = {json.loads(line)["prompt"] for line in lines.read_text().splitlines()}
    assert {p.sample["prompt"] for p in found if p.sample} == prompts
    assert {p.item for p in found} == {"a", "b"}
    result = run("eval", "run", tiny, *args, "--limit", 1)
    assert_refused(result, 2, "other samples (--data, --limit); other --log-samples")


def test_a_failed_sample_is_counted_and_the_rest_is_reported(
    run: Run, tiny: Path, lines: Path, tmp_path: Path
) -> None:
    args = ("--data", lines, "--budget", 40, "--rows", "full,scope-slide")
    result = run("eval", "run", tiny, *args, "--out", tmp_path / "run")
    assert result.exit_code == 1
    (error,) = (line for line in result.stderr.splitlines() if line.startswith("error: "))
    assert "1 of 4 samples failed, the first of them 'b' of 'scope-slide': " in error
    assert "budget 40" in error
    assert "| scope-slide | 1 | 1 |" in result.stdout


def test_named_rows_and_types(evaluate: Eval, tmp_path: Path) -> None:
    named = "every 4: --policy scope-slide --granularity cell -o interval=4"
    result = evaluate("--rows", "h2o", "--row", named, "-ctk", "f16,q8_0", "-ctv", "f16,q8_0")
    assert result.exit_code == 0, result.stderr
    config = RunFolder.open(tmp_path / "run").config
    assert [row["name"] for row in config["rows"]] == [
        "full, f16", "h2o, f16", "every 4, f16", "full, q8_0", "h2o, q8_0", "every 4, q8_0",
    ]  # fmt: skip
    every = config["rows"][2]
    assert (every["granularity"], every["options"], every["beta"]) == ("cell", ["interval=4"], 24)


@pytest.mark.parametrize(
    ("args", "phrase"),
    [
        (("--task", "nonsense"), "unknown task 'nonsense'"),
        (("--task", "gsm8k"), "gsm8k"),
        (("--data", "nowhere.jsonl"), "leave out --task-option, or --data"),
        (("--task", "perplexity", "--data", "nowhere.txt"), "unknown option 'questions=4'"),
        (("--rows", "nonsense"), "row 'nonsense': unknown policy"),
        (("--rows", "full,,h2o"), "--rows 'full,,h2o'"),
        (("--beta", "x"), "--beta x"),
        (("--seed", "x"), "--seed x"),
        (("--seed", "-1"), "--seed -1"),
        (("--budget", "99"), "--beta and --budget"),
        (("--scorer", "nonsense"), "no scorer 'nonsense'"),
        (("--task-option", "nonsense=1"), "unknown option 'nonsense=1'"),
        (("-ctk", "f16,q8_0", "-ctv", "f16,q8_0,q4_0"), "-ctk has 2 types, -ctv 3"),
        (("--temp", "nan"), "temp"),
        (("-o", "interval=1"), "-o/--output: give one of"),
        (("--out", __file__), Path(__file__).name),
    ],
)
def test_wrong_requests_are_refused_in_a_line(
    evaluate: Eval, args: tuple[str, ...], phrase: str
) -> None:
    assert_refused(evaluate(*args), 2, phrase)


def test_data_that_is_absent_is_named(run: Run, tiny: Path, tmp_path: Path) -> None:
    for task, name in (("reference", "no.jsonl"), ("gsm8k", "no.jsonl"), ("perplexity", "no.txt")):
        result = run("eval", "run", tiny, "--task", task, "--data", tmp_path / name)
        assert_refused(result, 2, name)
    result = run("eval", "run", tiny, "--task", "gsm8k")
    assert_refused(result, 2, "https://github.com/openai/grade-school-math")


def test_a_model_that_is_none_is_refused(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "no.gguf"
    assert_refused(run("eval", "run", path), 2, str(path))


def test_flags_of_a_config_file(evaluate: Eval, tmp_path: Path) -> None:
    config = tmp_path / "run.toml"
    config.write_text('rows = "full,h2o"\nlimit = 1\ntop-k = 3\n')
    result = evaluate("--config", config, "-o", "json")
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["n_all"] == 2
    config.write_text("nonsense = 1\n")
    assert_refused(evaluate("--config", config), 2, "unknown key 'nonsense'")


@posix
def test_ctrl_c_ends_after_the_running_sample_and_the_same_command_goes_on(
    tiny: Path, run: Run, tmp_path: Path
) -> None:
    args = ("eval", "run", tiny, *SMALL, "--task-option", "n=3", "--rows", "full,h2o",
            "--out", tmp_path / "run")  # fmt: skip
    process = spawn(*args)
    assert process.stderr is not None
    while b"results go to" not in process.stderr.readline():
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 130, stderr.decode()
    assert b"the same command goes on from there" in stderr
    assert b"Traceback" not in stderr
    kept = RunFolder.open(tmp_path / "run").predictions()
    assert len(kept) < 12
    assert (b"| full | " in stdout) == bool(kept)
    result = run(*args)
    assert result.exit_code == 0, result.stderr
    assert (f"{len(kept)} of 12 samples are there already" in result.stderr) == bool(kept)
    after = RunFolder.open(tmp_path / "run").predictions()
    assert after[: len(kept)] == kept and len(after) == 12


def test_a_grid_is_one_command_and_one_table(evaluate: Eval, run: Run, tmp_path: Path) -> None:
    grid = ("--beta", "40,60", "--seed", "1,2", "--rows", "methods", "--limit", 1)
    result = evaluate(*grid)
    assert result.exit_code == 0, result.stderr
    folder = tmp_path / "run"
    names = [row["label"] for row in RunFolder.open(folder).config["rows"]]
    text = run("eval", "report", folder, "--markdown").stdout
    command, scores, seeds, _ = text.split("\n\n")
    assert command.split()[0] == "scope"
    for table in (scores, seeds):
        assert [table.splitlines()[0].count(f"| β = {beta}: ") for beta in (40, 60)] == [1, 1]
        lines = [line.split("|")[1].strip() for line in table.splitlines()[2:]]
        assert lines == list(dict.fromkeys(names))
    found = json.loads(run("eval", "report", folder, "--json").stdout)
    assert list(found["rows"][1]["seeds"]) == ["1", "2"]
    assert_refused(run("eval", "report", tmp_path), 2, "holds no run of 'scope eval run'")


@posix
def test_a_terminal_gets_a_drawn_overview(evaluate: Eval, tmp_path: Path) -> None:
    from .pty_screen import Terminal

    evaluate("--rows", "full,h2o")
    for flags in ((), ("--markdown",)):
        with Terminal("eval", "report", tmp_path / "run", *flags, columns=120) as terminal:
            assert terminal.exit_code() == 0
            text = terminal.text()
        assert "β = 24: uniform / hubs" in text
        assert ("| --- |" in text) == bool(flags)


def test_several_budgets_are_rows(run: Run, tiny: Path, lines: Path, tmp_path: Path) -> None:
    args = ("--data", lines, "--budget", "60,70", "--rows", "h2o", "--out", tmp_path / "run")
    result = run("eval", "run", tiny, *args)
    assert result.exit_code == 0, result.stderr
    rows = RunFolder.open(tmp_path / "run").config["rows"]
    assert [row["name"] for row in rows] == ["full", "h2o, budget 60", "h2o, budget 70"]
    assert "| row | 60 cells: " in run("eval", "report", tmp_path / "run").stdout


def test_comparing_runs(evaluate: Eval, run: Run, tiny: Path, tmp_path: Path) -> None:
    evaluate("--rows", "full,h2o")
    folder = tmp_path / "run"
    result = run("eval", "compare", folder, folder)
    assert result.exit_code == 0, result.stderr
    assert "| h2o | 2 |" in result.stdout
    result = run("eval", "compare", folder, folder, "--rows", "h2o=full", "--json")
    (row,) = json.loads(result.stdout)["rows"]
    assert (row["row"], row["n"]) == ("h2o / full", 2)
    assert_refused(run("eval", "compare", folder, tmp_path), 2, "holds no run of 'scope eval run'")
    assert_refused(run("eval", "compare", folder, folder, "--rows", "h2o"), 2, "write it as A=B")
    assert_refused(run("eval", "score", folder), 2, "is a run's folder: its command again")


def test_scoring_a_file(run: Run, tmp_path: Path) -> None:
    prompt = (
        "Following Question: \nQuestion_1:\nWhat is 1 + 1?\nQuestion_2:\nWhat is 2 + 2?\n"
        "Question_3:\nWhat is 3 + 3?\nQuestion_4:\nWhat is 4 + 4?\n"
    )
    pred = (
        "Answer_1:\nThe answer is 2.\n\nAnswer_2:\nThe answer is 4.\n\n"
        "Answer_3:\nThe answer is 7.\n\nAnswer_4:\nThe answer is 8.\n"
    )
    path = tmp_path / "outputs.jsonl"
    line = {"prompt": prompt, "answers": [f"#### {n}" for n in (2, 4, 6, 8)], "pred": pred}
    path.write_text(json.dumps(line) + "\n")
    result = run("eval", "score", path, "--task", "longgenbench-gsm8k", "--json")
    assert result.exit_code == 0, result.stderr
    found = json.loads(result.stdout)
    assert (found["percent"], found["n"], found["scorer"]) == (75.0, 1, "strict")
    authors = found["others"]["authors"]
    assert authors["difference"] == authors["total"] - found["total"]
    text = run("eval", "score", path, "--scorer", "authors").stdout
    assert "strict: 75.0 %" in text and "against authors" in text
    assert_refused(run("eval", "score", path, "--scorer", "nonsense"), 2, "nonsense")
    assert_refused(run("eval", "score", tmp_path / "no.jsonl"), 2, "no.jsonl")


def test_tasks_are_listed_with_where_their_data_is(run: Run) -> None:
    text = run("eval", "tasks").stdout
    found = json.loads(run("eval", "tasks", "--json").stdout)
    assert [item["task"] for item in found] == list(tasks())
    for item in found:
        assert f"{item['task']}\n" in text
        assert item["data"] is None or item["data"] in text


def test_help_of_every_command(run: Run) -> None:
    assert "compare" in run("eval", "--help").stdout
    for name in ("run", "report", "score", "compare", "tasks"):
        result = run("eval", name, "--help-all")
        assert result.exit_code == 0
        assert "SCOPE_" in result.stdout


def test_nothing_of_the_engine_is_imported_for_help() -> None:
    code = (
        "import sys, scope_cli.program;"
        "print([name for name in sys.modules if name.startswith('scope_cpp.e')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True,
                          env=dict(os.environ))  # fmt: skip
    assert done.stdout.strip() == "['scope_cpp.errors']", done.stderr
