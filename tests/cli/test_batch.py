"""``scope batch``: files, streams, exit codes, Ctrl-C, progress, and wrong requests."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from scope_cli.batch_screen import Lines
from typer.testing import Result

from scope_cpp.batch.run import Outcome
from scope_cpp.batch.runner import Status

from .conftest import Run, assert_refused, spawn

Batch = Callable[..., Result]

posix = pytest.mark.skipif(sys.platform == "win32", reason="terminals and signals of POSIX")

FLAGS = ("--temp", 0, "-n", 8)
# a row that never ends by itself
ENDLESS = {"prompt": "on and on", "n_predict": 10**6, "ignore_eos": True, "budget": 64}


def write(path: Path, *rows: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def records(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    return write(
        tmp_path / "rows.jsonl",
        {"id": "a", "prompt": "Hello"},
        {"id": "b", "prompt": "Bye", "n_predict": 3},
        {"id": "c", "messages": [{"role": "user", "content": "hi"}]},
    )


@pytest.fixture
def batch(run: Run, tiny: Path) -> Batch:
    def call(*args: object, **extra: Any) -> Result:
        return run("batch", tiny, *FLAGS, *args, **extra)

    return call


def test_a_run_whose_outputs_end_at_once_says_so_once(
    batch: Batch, tmp_path: Path, rows: Path
) -> None:
    out, bias = tmp_path / "out.jsonl", {"logit_bias": {"2": 100000}}
    prompts = [{"id": i, "prompt": "Hi", **bias} for i in range(2)]
    source = write(tmp_path / "in.jsonl", *prompts, {"id": "other", "prompt": "Hi"})
    result = batch("-i", source, "-o", out)
    assert result.exit_code == 0
    (line,) = [one for one in result.stderr.splitlines() if one.startswith("warning: ")]
    assert "2 of 3 outputs have no text: the first token ended them" in line
    assert "give 'messages', or --chat" in line
    found = {record["id"]: record for record in records(out)}
    assert found[0]["text"] == "" and found["other"]["no_text"] is None
    assert found[0]["no_text"] == "the first token, '</s>', ended the output"
    chats = batch("-i", source, "-o", tmp_path / "chat.jsonl", "--chat", "--json")
    assert "2 of 3 outputs have no text" in chats.stderr and "--chat" not in chats.stderr
    assert json.loads(chats.stdout)["rows"]["ended_at_once"] == 2
    assert "have no text" not in batch("-i", rows, "-o", tmp_path / "fine.jsonl").stderr


def test_a_missing_input_is_told_before_a_missing_output(batch: Batch, tmp_path: Path) -> None:
    assert_refused(batch("-i", tmp_path / "nope.jsonl"), 2, "nope.jsonl: there is no such file")


def test_records_are_no_table(batch: Batch, rows: Path, tmp_path: Path) -> None:
    result = batch("-i", rows, "-o", tmp_path / "b.csv")
    assert_refused(result, 2, f"give -o {tmp_path / 'b.jsonl'}")
    assert not (tmp_path / "b.csv").exists()


def test_a_file_is_run_and_summed_up(
    batch: Batch, rows: Path, tmp_path: Path, generate: Callable[..., dict[str, Any]]
) -> None:
    out = tmp_path / "out.jsonl"
    result = batch("-i", rows, "-o", out, "--ordered")
    assert result.exit_code == 0, result.stderr
    assert result.stdout == ""
    assert result.stderr.startswith("3 of 3 rows done, 0 failed | read ")
    found = records(out)
    assert [record["id"] for record in found] == ["a", "b", "c"]
    assert found[0]["text"] == generate("--raw", "-p", "Hello", "-n", 8)["text"]
    assert found[1]["usage"]["completion_tokens"] == 3
    assert found[2]["text"] == generate("-p", "hi", "--chat", "-n", 8)["text"]

    before = out.read_bytes()
    result = batch("-i", rows, "-o", out, "--ordered", "--json")
    assert result.exit_code == 0
    assert out.read_bytes() == before
    summary = json.loads(result.stdout)
    assert summary["complete"]
    assert summary["rows"] == {
        "all": 3, "done": 3, "ok": 0, "failed": 0, "ended_at_once": 0, "already_there": 3,
        "failed_before": 0,
    }  # fmt: skip
    result = batch("-i", rows, "-o", out, "--ordered", "--seed", 1)
    assert_refused(result, 2, "another configuration (seed 1 instead of 0)")


def test_streams(batch: Batch, rows: Path) -> None:
    result = batch("-i", "-", "-o", "-", "--json", stdin=rows.read_bytes())
    assert result.exit_code == 0, result.stderr
    assert {json.loads(line)["id"] for line in result.stdout.splitlines()} == {"a", "b", "c"}
    assert json.loads(result.stderr.splitlines()[-1])["rows"]["done"] == 3
    result = batch("-i", "-", "-o", "-", "--format", "text", stdin="one\n\ntwo\n")
    assert [json.loads(line)["id"] for line in result.stdout.splitlines()] == [1, 3]


def test_openai_lines_and_csv(batch: Batch, tmp_path: Path) -> None:
    body = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "hi"}]}
    line = {"custom_id": "x", "method": "POST", "url": "/v1/chat/completions", "body": body}
    result = batch("-i", write(tmp_path / "in.jsonl", line), "-o", "-")
    assert result.exit_code == 0, result.stderr
    answer = json.loads(result.stdout)
    assert (answer["custom_id"], answer["response"]["status_code"]) == ("x", 200)
    assert answer["response"]["body"]["model"] == "tiny.gguf"
    (tmp_path / "in.csv").write_text("id,prompt,n_predict\nx,Hello,2\n")
    result = batch("-i", tmp_path / "in.csv", "-o", "-")
    assert json.loads(result.stdout)["usage"]["completion_tokens"] == 2


def test_rows_that_fail_are_counted_and_the_rest_is_run(
    batch: Batch, rows: Path, tmp_path: Path
) -> None:
    with rows.open("a") as file:
        file.write('nonsense\n{"id": "d", "prompt": "x", "temp": "hot"}\n')
    out = tmp_path / "out.jsonl"
    result = batch("-i", rows, "-o", out, "--ordered")
    assert result.exit_code == 1
    assert result.stderr.splitlines()[-1] == (
        "error: 2 of 5 rows failed, the first of them line 4: line 4 is no JSON: Expecting value, "
        "column 1"
    )
    assert [record["error"] is None for record in records(out)] == [True] * 3 + [False] * 2
    result = batch("-i", rows, "-o", out, "--ordered")
    assert result.exit_code == 1
    assert "2 of 5 rows failed, all of them at an earlier start" in result.stderr
    assert "3 of 5 rows done (5 were there), 2 failed | read 0 tokens, wrote 0 in " in result.stderr
    assert " t/s" not in result.stderr  # nothing was written

    result = batch("-i", rows, "-o", tmp_path / "other.jsonl", "--fail-fast")
    assert result.exit_code == 1
    assert "the same command goes on with them" in result.stderr


def test_half_a_record_is_told(batch: Batch, rows: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    batch("-i", rows, "-o", out)
    with out.open("a") as file:
        file.write('{"id": "d"')
    result = batch("-i", rows, "-o", out)
    assert f"{out}: cut off a half-written record of 10 bytes" in result.stderr
    assert (result.exit_code, len(records(out))) == (0, 3)


@pytest.mark.parametrize(
    ("args", "phrase"),
    [
        (("-o", "-"), "no input: give a file of rows with -i"),
        (("-i", "-"), "no output: give a file with -o"),
        (("-i", "nowhere.jsonl", "-o", "-"), "-i nowhere.jsonl: there is no such file"),
        (("-i", "-", "-o", "-"), "there is no input: pipe rows in"),
        (("-i", "-", "-o", "-", "--shuffle"), "--shuffle needs all rows at once"),
        (("-i", "{rows}", "-o", "{rows}"), "-i and -o are both"),
        (("-i", "{rows}", "-o", "-", "-n", "0"), "-n 0: give at least 1"),
        (("-i", "{rows}", "-o", "-", "--budget", "auto"), "budget auto depends on the memory"),
        (("-i", "{rows}", "-o", "-", "--policy", "nonsense"), "unknown policy 'nonsense'"),
        (("-i", "{rows}", "-o", "-", "--top-p", "2"), "--top-p is 2.0"),
        (("-i", "{rows}", "-o", "-", "-np", "100000"), "--parallel is 100000: give 1 to"),
        (("-i", "{rows}", "-o", "-", "--cells", "999999999k"), "--cells 999999999k: "),
        (("-i", "{rows}", "-o", "-", "--format", "xml"), "--format xml; valid are"),
    ],
)
def test_wrong_requests(
    run: Run, tiny: Path, rows: Path, args: tuple[str, ...], phrase: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    if phrase.startswith("there is no input"):
        monkeypatch.setattr("scope_cli.batch_screen.stdin", lambda: None)
    named = [arg.format(rows=rows) for arg in args]
    assert_refused(run("batch", tiny, *named), 2, phrase)


# Ctrl-C and terminals


def wait_for(found: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not found():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@posix
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_stops_after_the_step_and_says_how_to_go_on(
    tiny: Path, tmp_path: Path, batch: Batch, number: signal.Signals
) -> None:
    out = tmp_path / "out.jsonl"
    source = write(tmp_path / "in.jsonl", {"id": "a", "prompt": "Hello"}, {"id": "b", **ENDLESS})
    child = spawn("batch", tiny, *FLAGS, "-i", source, "-o", out)
    wait_for(lambda: out.exists() and out.read_bytes().endswith(b"\n"))
    child.send_signal(number)
    stdout, stderr = child.communicate(timeout=60)
    assert child.returncode == 130
    assert stdout == b""
    lines = stderr.decode().splitlines()
    assert "stopping after this step; again: at once" in lines
    assert lines[-1] == f"1 of 2 rows are left; the same command goes on with them, in {out}"
    (record,) = records(out)
    result = batch("-i", source, "-o", out, "--limit", 1)
    assert "1 of 1 rows done (1 were there)" in result.stderr
    assert records(out) == [record]


@posix
def test_ctrl_c_while_a_stream_has_nothing_to_say(tiny: Path, tmp_path: Path) -> None:
    reading, writing = os.pipe()
    child = spawn("batch", tiny, *FLAGS, "-i", "-", "-o", "-", stdin=reading)
    os.close(reading)
    with os.fdopen(writing, "wb", buffering=0) as pipe:
        pipe.write(b'{"id": "a", "prompt": "Hello"}\n')
        assert child.stdout is not None
        assert json.loads(child.stdout.readline())["id"] == "a"
        child.send_signal(signal.SIGINT)
        _, stderr = child.communicate(timeout=60)
    assert child.returncode == 130
    assert b"reading from a pipe can't be resumed: give files with -i and -o" in stderr
    assert b"Traceback" not in stderr and b"Fatal" not in stderr


@posix
def test_a_terminal_gets_a_bar(tiny: Path, tmp_path: Path) -> None:
    from .pty_screen import Terminal, strip

    source = write(tmp_path / "in.jsonl", {"prompt": "Hello", "n_predict": 50})
    with Terminal("batch", tiny, "-i", source, "-o", tmp_path / "out.jsonl", columns=120) as screen:
        assert screen.exit_code() == 0
        assert "rows" in strip(screen.raw) and "cells" in strip(screen.raw)
        assert "1 of 1 rows done, 0 failed" in screen.text()


def test_without_a_terminal_a_line_now_and_then() -> None:
    written: list[str] = []

    def clock() -> Iterator[float]:
        yield from (0.0, 4.0, 12.0, 13.0, 3672.0)

    times = clock()
    show = Lines(written.append, lambda: next(times))
    show(Outcome(n_skipped=10), 100, Status(0, 0, 0, 0, 0, 0, 500))
    show(Outcome(n_skipped=10, n_ok=1), 100, Status(3, 0, 40, 0, 90, 90, 500))
    show(Outcome(n_skipped=10, n_ok=5, n_failed=1), 100, Status(3, 0, 240, 0, 100, 100, 500))
    show(Outcome(n_skipped=10, n_ok=6, n_failed=1), 100, Status(3, 0, 260, 0, 100, 100, 500))
    show(Outcome(n_skipped=10, n_ok=6, n_failed=1), None, Status(2, 0, 3672, 0, 80, 100, 500))
    assert written == [
        "16/100 rows, 1 failed, 20.0 t/s, 2:48 left, cells 100/500, 3 running",
        "17 rows, 1 failed, 1.0 t/s, cells 80/500, 2 running",
    ]
