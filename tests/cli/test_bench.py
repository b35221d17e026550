"""``scope bench``: its table in all formats, wrong requests, Ctrl-C, no process left behind."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import Result

from scope_cpp.bench import report as report_module
from scope_cpp.bench.measure import Bench, Report
from scope_cpp.bench.plot import curves
from scope_cpp.bench.report import COLUMNS, FORMATS, render
from scope_cpp.bench.request import Request
from scope_cpp.bench.row import Compute
from scope_cpp.bench.run import Outcome
from tests.conftest import Tiny

from .conftest import Run, assert_refused, spawn

linux = pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="watches processes as Linux does")

QUICK = ("-p", "40", "-d", "150", "-n", "3", "-r", "1", "--beta", "48", "--policy", "h2o")


@pytest.fixture(scope="module")
def report(tiny: Path) -> Report:
    """One bench: its rows with numbers, one that was refused, one that was compared with none."""
    compute = Compute(str(tiny), n_threads=1, n_threads_batch=1)
    policies = ("h2o", "scope-slide:interval=2")
    request = Request(
        compute, n_prompts=(40,), depths=(150,), n_gen=3, repetitions=2, beta=48,
        policies=policies, flash=("on",),
    )  # fmt: skip
    found = Bench(request, warn=lambda line: None).run()
    found.outcomes.append(Outcome(found.outcomes[0].row, error="broken | pipe"))
    return found


def parse_markdown(text: str) -> list[dict[str, str]]:
    table = [line for line in text.splitlines() if line.startswith("| ")]
    cells = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in table]
    return [dict(zip(cells[0], row, strict=True)) for row in cells[2:]]


def json_rows(report: Report) -> list[dict[str, Any]]:
    return list(json.loads(render(report, "json", ["scope"]))["rows"])


def test_csv_has_the_numbers_of_json(report: Report) -> None:
    rows = list(csv.DictReader(io.StringIO(render(report, "csv", []))))
    assert len(rows) == len(report.outcomes) == 7
    for plain, full in zip(rows, json_rows(report), strict=True):
        for key, text in plain.items():
            value = full[key]
            assert text == ("" if value is None else str(value))


def test_jsonl_is_json_by_line(report: Report) -> None:
    head, *rows = (json.loads(line) for line in render(report, "jsonl", ["scope"]).splitlines())
    whole = json.loads(render(report, "json", ["scope"]))
    assert rows == whole.pop("rows")
    assert head == whole


def test_markdown_has_the_numbers_of_json(report: Report) -> None:
    shown = parse_markdown(render(report, "md", []))
    numbers = 0
    for cells, row in zip(shown, json_rows(report), strict=True):
        assert cells["policy"] == row["policy"]
        if row["error"]:
            assert cells["t/s"] == r"broken \| pipe"
            continue
        for title, keys in {
            "t/s": ("tokens_per_second", "tokens_per_second_sd"),
            "ms": ("ms",),
            "min–max": ("ms_min", "ms_max"),
            "vs full": ("vs_full", "vs_full_min", "vs_full_max"),
            "vs faster full": ("vs_fastest", "vs_fastest_min", "vs_fastest_max"),
            "vs same cells": ("vs_same", "vs_same_min", "vs_same_max"),
            "cells": ("cells_used",),
            "KV MiB": ("kv_mib",),
            "with buffers MiB": ("memory_mib",),
            "anon MiB": ("anonymous_mib",),
            "Python ms": ("python_ms",),
        }.items():
            found = re.findall(r"\d+\.?\d*", cells.get(title, ""))
            known = [row[key] for key in keys if row[key] is not None]
            assert len(found) == len(known)
            for text, value in zip(found, known, strict=True):
                digits = len(text.partition(".")[2])
                assert float(text) == pytest.approx(value, abs=0.51 * 10**-digits)
                numbers += 1
    assert numbers > 50


def test_json_has_every_step_and_the_machine(report: Report) -> None:
    whole = json.loads(render(report, "json", ["scope", "bench"]))
    assert whole["command"] == ["scope", "bench"]
    assert whole["environment"]["abi"] is not None
    assert {"cpu", "threads", "variables", "llama_cpp_commit"} <= set(whole["environment"])
    assert whole["model"]["n_vocab"] > 0
    for row in whole["rows"][:-1]:
        blocks = [row["warm_up"], *row["blocks"]]
        assert [len(block["seconds"]) for block in blocks] == [3, 3, 3]


def test_columns_are_all_in_a_record(report: Report) -> None:
    keys = {key for column in COLUMNS for key in re.findall(r"\{(\w+)", column.form)}
    rows = json_rows(report)
    assert len(rows) == len(report.outcomes) and len(keys) > 20
    assert all(keys <= row.keys() for row in rows)


@pytest.mark.parametrize("form", FORMATS)
def test_a_report_without_rows(report: Report, form: str) -> None:
    empty = Report(report.environment, report.model, report.compute, interrupted=True)
    assert "None" not in render(empty, form, [])


def bench(run: Run, tiny: Path, *args: object) -> Result:
    return run("bench", tiny, "-fa", "on", *QUICK, *args)


def test_the_command_prints_six_columns_and_a_verdict(run: Run, tiny: Path) -> None:
    result = bench(run, tiny)
    assert result.exit_code == 0, result.stderr
    head, *rows = result.stdout.split("\n\n")[0].splitlines()
    assert head.split() == ["cache", "fa", "at", "t/s", "speed", "KV", "MiB"]
    assert [row.split()[:2] for row in rows] == [["full", "on"], ["full", "off"], ["h2o", "on"]]
    assert max(map(len, result.stdout.splitlines())) <= 80
    verdict = " ".join(result.stdout.split("\n\n")[1].split())
    equal = r"llama.cpp allocates cells in steps of 256: both get as many"
    said = rf"h2o at 150 tokens: .* full cache.*, 100 % of its KV memory \({equal}\)\."
    assert re.fullmatch(said, verdict)


def test_the_command_prints_all_columns(run: Run, tiny: Path) -> None:
    result = bench(run, tiny, "--progress", "--wide")
    assert result.exit_code == 0, result.stderr
    rows = parse_markdown(result.stdout)
    assert [(row["policy"], row["fa"]) for row in rows] == [
        ("full", "on"),
        ("full", "off"),
        ("full, same cells", "on"),
        ("full, same cells", "off"),
        ("h2o", "on"),
    ]
    assert {row["library"] for row in rows} == {"scope-cpp, hooks off", "scope-cpp"}
    assert "round 1/1" in result.stderr


@pytest.mark.parametrize("test", ["prompt", "memory", "python", "turn"])
def test_other_tests(run: Run, tiny: Path, test: str) -> None:
    args = ("--test", test, "-p", 20, "-n", 4, "-r", 1, "-fa", "on", "--beta", "48", "-o", "json")
    result = run("bench", tiny, *args, *(("-d", 120) if test == "memory" else ()))
    assert result.exit_code == 0, result.stderr
    rows = json.loads(result.stdout)["rows"]
    assert all(row["ms"] > 0 for row in rows), [row["error"] for row in rows]
    bounded = [row for row in rows if row["role"] == "bounded"][-1]
    compared = {"prompt": "vs_full", "memory": "kv_of_full", "turn": "vs_same"}
    if test == "python":
        assert 0 < bounded["python_ms"] < bounded["ms"]
        assert {row["policy"] for row in rows} == {"full", "scope-retrieval"}
    else:
        assert bounded[compared[test]] > 0
    if test == "turn":
        same = next(row for row in rows if row["role"] == "same")
        assert same["cells_used"] == bounded["cells_used"]
        assert same["test"].startswith(f"pp{bounded['facts']['turn_tokens']} @")


def test_texts_at_once(run: Run, tiny: Path) -> None:
    args = ("-np", "1,3", "-p", 20, "-d", 90, "-n", 4, "-r", 1, "-fa", "on", "--beta", "40")
    result = run("bench", tiny, *args, "--policy", "scope-slide", "--wide")
    assert result.exit_code == 0, result.stderr
    rows = parse_markdown(result.stdout)
    assert [(row["policy"], row["texts"], row["test"]) for row in rows] == [
        ("full", "1", "tg4 @ d90 x1"),
        ("full", "1", "tg4 @ d90 x1"),
        ("scope-slide", "1", "tg4 @ d90 x1"),
        ("scope-slide", "3", "tg4 @ d90 x3"),
    ]
    assert rows[-1]["budget"] == "180" and rows[-1]["full texts in this KV"] == "0"
    assert rows[-1]["room"] == "68.6×"  # 20 and 4096 cells against 20 and 40
    assert float(rows[-1]["vs one"].split()[0]) > 0


def test_rows_on_another_library(run: Run, tiny: Path) -> None:
    folder = os.environ.get("SCOPE_STOCK_LIB")
    if not folder:
        pytest.skip("no stock libllama: set SCOPE_STOCK_LIB to its folder")
    result = bench(run, tiny, "--stock", folder, "-o", "json")
    assert result.exit_code == 0, result.stderr
    rows = json.loads(result.stdout)["rows"]
    library = {row["role"]: row["library"] for row in rows}
    assert library == {
        "full": "stock",
        "same": "stock",
        "hooks": "scope-cpp, hooks off",
        "bounded": "scope-cpp",
    }
    kv = {(row["role"], row["kv_mib"]) for row in rows}
    assert kv == {("full", 0.25), ("same", 0.25), ("hooks", 0.25), ("bounded", 0.25)}


USAGE = [
    (["-d", "30"], "lies within the prompt of 40"),
    (["-d", "many"], "-d many"),
    (["-d", "0"], "-d 0"),
    (["-p", "0"], "-p 0"),
    (["-p", ""], "-p "),
    (["-n", "0"], "-n 0"),
    (["-r", "0"], "-r 0"),
    (["--beta", "0"], "--beta 0"),
    (["--beta", "1"], "--beta 1: give at least 2"),
    (["--beta", "2", "--policy", "scope-slide:interval=9"], "below the minimum"),
    (["-fa", "auto"], "unknown flash attention 'auto'"),
    (["-fa", ""], "-fa ''"),
    (["--test", "speed"], "valid are gen, prompt, memory, turn, python"),
    (["--fill", "fast"], "copy, read, decode"),
    (["--policy", "nope"], "unknown policy 'nope'"),
    (["--policy", "h2o:heavy"], "key=value"),
    (["--policy", "h2o:beta1=3"], "decode policy h2o has no option 'beta1'"),
    (["--option", "beta1=3"], "decode policy h2o has no option 'beta1'"),
    (["--prefill", "nope"], "full, h2o, snapkv"),
    (["--granularity", "layer"], "head, cell"),
    (["--budget", "20"], "budget"),
    (["-ctk", "q9_9"], "unknown KV cache type"),
    (["-ngl", "x"], "-ngl x"),
    (["-o", "xml"], "--output"),
    (["--stock", "missing"], "--stock missing"),
    (["--stock", "."], "no libllama"),
    (["--plot", "missing/x.png"], "--plot missing/x.png: the folder missing does not exist; make"),
    (["--plot", "x.txt"], "name it *.png"),
]


@pytest.mark.parametrize(("args", "phrase"), USAGE, ids=lambda value: " ".join(value)[:30])
def test_wrong_requests(run: Run, tiny: Path, args: list[str], phrase: str) -> None:
    if args[0] == "--plot":
        pytest.importorskip("matplotlib")
    assert_refused(bench(run, tiny, *args), 2, phrase)


@pytest.mark.parametrize("arch", ["mamba", "deepseek2"])
def test_models_that_are_not_bounded(run: Run, tiny_arch: Tiny, arch: str) -> None:
    """The full cache is measured, the bounded row says why it is not, and that is a failure."""
    size = ("-p", 50, "-d", 150, "--budget", 100, "-n", 2, "-r", 1)
    result = run("bench", tiny_arch(arch=arch), *size, "-fa", "on")
    assert result.exit_code == 1
    assert "can't be bounded" in result.stderr
    assert "can't be bounded" in result.stdout and "nothing to compare" in result.stdout
    rows = [line.split() for line in result.stdout.splitlines()[1:4]]
    assert [row[0] for row in rows] == ["full", "full", "scope-retrieval"]
    assert [row[3] == "failed" for row in rows] == [False, False, True]


def test_what_runs_with_the_full_cache_is_not_compared(run: Run, tiny_arch: Tiny) -> None:
    result = run("bench", tiny_arch(arch="mamba"), "-p", 50, "-d", 150, "-n", 2, "-r", 1)
    assert result.exit_code == 0, result.stderr
    said = " ".join(result.stdout.split("\n\n")[1].split())
    assert re.fullmatch(
        r"\S+\.gguf \(mamba\) can't be bounded: the model is recurrent: .*; "
        r"there is nothing to compare\.",
        said,
    )
    assert not re.search(r"\d+\.\d\dx", result.stdout)


@pytest.mark.parametrize("args", [("-d", "60"), ("--test", "prompt")])
def test_where_everything_fits_there_is_nothing_to_compare(
    run: Run, tiny: Path, args: tuple[str, ...]
) -> None:
    """Neither at a depth within the pool, nor in reading with a budget for all that is written."""
    budget = ("--budget", "9999") if args[0] == "--test" else ()
    result = run("bench", tiny, "-p", 40, *args, *budget, "-n", 3, "-r", 1, "-fa", "on")
    assert result.exit_code == 0, result.stderr
    said = " ".join(result.stdout.split("\n\n")[1].split())
    assert re.fullmatch(
        r"scope-retrieval .*: everything fits into [\d,]+ cells, nothing to.*", said
    )
    assert not re.search(r"\d+\.\d\dx", result.stdout)


def test_a_file_that_is_no_model(run: Run, tmp_path: Path) -> None:
    (tmp_path / "x.gguf").write_bytes(b"no model")
    assert_refused(run("bench", tmp_path / "x.gguf"), 1, "x.gguf")


def test_a_depth_beyond_training_is_said(run: Run, tiny: Path) -> None:
    result = bench(run, tiny, "-d", "600")
    assert result.exit_code == 0
    assert "depth 600 is beyond the 512 positions" in result.stderr


def test_a_plot(run: Run, tiny: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    result = bench(run, tiny, "--plot", tmp_path / "x.png")
    assert result.exit_code == 0, result.stderr
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")


def test_lines_of_a_plot_are_by_depth(report: Report) -> None:
    rows = [{**row, "depth": depth} for depth in (300, 100) for row in json_rows(report)]
    lines = curves(rows)
    assert list(lines) == [
        "full, flash attention on",
        "full, flash attention off",
        "h2o, 88 cells, full, head, flash attention on",
        "scope-slide:interval=2, 88 cells, full, head, flash attention on",
    ]
    assert all([point["depth"] for point in points] == [100, 300] for points in lines.values())


def test_no_matplotlib(run: Run, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert_refused(bench(run, tiny, "--plot", "x.png"), 1, "pip install 'scope-cpp[plot]'")


ENDLESS = ("-p", "40", "-d", "150", "-n", "1", "-r", "1000000", "--beta", "48", "-o", "json")


def lines_of(process: subprocess.Popen[bytes]) -> Iterator[str]:
    assert process.stderr is not None
    for line in process.stderr:
        yield line.decode().strip()


def children(pid: int) -> list[int]:
    return [int(n) for n in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def wait_until_gone(pids: list[int]) -> None:
    for fd in pids:
        assert select.select([fd], [], [], 60)[0], "a process is left behind"
        os.close(fd)


@linux
def test_ctrl_c_prints_what_is_finished_and_leaves_nobody(tiny: Path) -> None:
    process = spawn("bench", tiny, *ENDLESS, "--progress", start_new_session=True)
    next(line for line in lines_of(process) if line.startswith("round 4/"))
    workers = [os.pidfd_open(pid) for pid in children(process.pid)]
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to all of them
    out, _ = process.communicate(timeout=120)
    assert process.returncode == 130
    whole = json.loads(out)
    assert whole["interrupted"]
    measured = [row for row in whole["rows"] if row["error"] is None]
    assert len(measured) == len(workers) == 6
    assert all(row["repetitions"] >= 3 for row in measured)
    wait_until_gone(workers)


@linux
def test_workers_end_with_the_one_that_started_them(tiny: Path) -> None:
    process = spawn("bench", tiny, *ENDLESS, "--progress")
    next(line for line in lines_of(process) if line.startswith("round 1/"))
    workers = [os.pidfd_open(pid) for pid in children(process.pid)]
    assert workers
    process.kill()
    process.wait()
    wait_until_gone(workers)
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    process.stderr.close()


@linux
def test_a_dead_worker_makes_the_exit_code_1(tiny: Path) -> None:
    args = ("--progress", "-r", "300", "-fa", "on")
    process = spawn("bench", tiny, *ENDLESS, *args)
    next(line for line in lines_of(process) if line.startswith("round 2/"))
    os.kill(children(process.pid)[0], signal.SIGKILL)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 1
    failed = [line for line in err.decode().splitlines() if line.startswith("error: ")]
    assert len(failed) == 1 and "SIGKILL" in failed[0]
    first, *others = json.loads(out)["rows"]
    assert "SIGKILL" in first["error"]
    assert all(row["repetitions"] == 300 for row in others)


def test_the_legend_names_the_columns() -> None:
    titles = {column.title for column in COLUMNS}
    for title in ("ms", "cells", "selections"):
        assert title in titles and f"{title}:" in report_module.LEGEND
