"""Batches with a model: the tokens of each row, resuming, order, stopping, what is refused."""

from __future__ import annotations

import io
import json
import os
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from scope_cpp.batch.asked import Asked
from scope_cpp.batch.config import config_path
from scope_cpp.batch.job import Job
from scope_cpp.batch.openai import read_body
from scope_cpp.batch.requests import Defaults, Requests, row_seed
from scope_cpp.batch.rows import Row
from scope_cpp.batch.run import run
from scope_cpp.batch.runner import EngineRunner, Plan
from scope_cpp.batch.source import StreamFeed
from scope_cpp.engine.generate import generate
from scope_cpp.engine.model import Model
from scope_cpp.engine.parallel.options import NO_LIMIT
from scope_cpp.engine.sampling import SamplingParams
from scope_cpp.errors import ScopeError, UsageError
from tests.batch.conftest import BUDGET, ROWS
from tests.batch.drive import SETTINGS, batch, by_id, records, write_rows
from tests.batch.test_sink import ids

Records = dict[str, Any]


def stop_after(n: int) -> Callable[[], bool]:
    """Want to stop at the `n`-th time that somebody asks."""
    left = n

    def stop() -> bool:
        nonlocal left
        left -= 1
        return left < 0

    return stop


# what is written


def test_every_row_gets_what_it_gets_alone(model: Model, undisturbed: Records) -> None:
    for i, row in enumerate(ROWS):
        record = undisturbed[f"{row['id']}/{i + 1}"]
        drawn = {"temp": row.get("temp", 0.0), "seed": row_seed(0, f"id {row['id']}")}
        text, last = generate(
            model,
            row["prompt"],
            n_predict=row["n_predict"],
            settings=replace(SETTINGS, budget=BUDGET),
            sampling=SamplingParams(ignore_eos=True, **drawn),
            warn=lambda line: None,
        )
        assert record["text"] == text
        assert record["seed"] == drawn["seed"]
        assert record["usage"]["completion_tokens"] == row["n_predict"]
        assert record["usage"]["prompt_tokens"] == last.stats.n_prompt
        assert record["cells"]["capacity"] == last.stats.cells_capacity <= BUDGET
        assert record["cells"]["peak"] <= BUDGET
        assert record["evicted"] == last.stats.evicted
        assert (record["policy"], record["error"]) == ("scope-slide", None)
    assert any(record["evicted"] for record in undisturbed.values())


def test_options_of_a_row_win(model: Model, tmp_path: Path) -> None:
    prompt = "Facts: a=1 b=2\nQ1 a b\n"
    source = write_rows(
        tmp_path / "in.jsonl",
        [
            {"id": "default", "prompt": prompt},
            {"id": "length", "prompt": prompt, "max_tokens": 3},
            {"id": "policy", "prompt": prompt, "policy": "h2o", "budget": 24},
            {"id": "stop", "prompt": prompt, "stop": "=", "ignore_eos": True},
            {"id": "seed", "prompt": prompt, "temp": 1, "seed": 5},
            {"id": "tokens", "prompt": model.tokenize(prompt)},
            {"id": "grammar", "prompt": prompt, "grammar": 'root ::= "7" "7"'},
            {"id": "format", "prompt": prompt, "n_predict": 200,
             "response_format": {"type": "json_schema", "json_schema": {"schema": {"enum": [12]}}}},
        ],
    )  # fmt: skip
    summary = batch(model, source, tmp_path / "out.jsonl")
    assert summary.error() is None
    found = {record["id"]: record for record in records(tmp_path / "out.jsonl")}
    assert found["length"]["usage"]["completion_tokens"] == 3
    assert found["length"]["finish_reason"] == "length"
    assert (found["policy"]["policy"], found["policy"]["cells"]["capacity"]) == ("h2o", 24)
    assert "=" not in found["stop"]["text"]
    assert found["stop"]["finish_reason"] == "stop"
    assert found["seed"]["seed"] == 5
    assert found["tokens"]["text"] == found["default"]["text"]
    assert found["grammar"]["text"] == "77"
    assert found["format"]["text"] == "12"


def test_what_is_wrong_with_a_row_is_its_record(model: Model, tmp_path: Path) -> None:
    wrong = {
        "long": ({"prompt": "a=1 " * 200}, "give --budget"),
        "policy": ({"prompt": "x", "policy": "nonsense"}, "unknown policy 'nonsense'"),
        "option": ({"prompt": "x", "policy": "h2o", "options": {"a": 1}}, "has no option"),
        "budget": ({"prompt": "x", "budget": "auto"}, "budget auto depends on the memory"),
        "range": ({"prompt": "x", "top_p": 2}, "top_p is 2"),
        "nan": ({"prompt": "x", "temp": float("nan")}, "temp is nan"),
        "grammar": ({"prompt": "x", "grammar": "root :="}, "grammar"),
        "token": ({"prompt": [10**9]}, "the prompt has token 1000000000"),
        "negative": ({"prompt": [-1]}, "the prompt has token -1"),
        "template": ({"messages": [{"role": "user", "content": "x"}]}, "no, thanks"),
        "unlimited": ({"prompt": "x", "policy": "full", "n_predict": -1, "budget": None}, "full"),
        "endless": ({"prompt": "x", "ignore_eos": True, "n_predict": -1}, "nothing would end"),
    }
    rows = [{"id": id, "budget": 40, **row} for id, (row, _) in wrong.items()]
    source = write_rows(
        tmp_path / "in.jsonl", [*rows[:5], {"id": "right", "prompt": "x"}, *rows[5:]]
    )
    defaults = Defaults(SETTINGS, template="{{ raise_exception('no, thanks') }}", n_predict=24)
    summary = batch(model, source, tmp_path / "out.jsonl", defaults=defaults)
    assert (summary.complete, summary.outcome.n_ok, summary.n_failed) == (True, 1, len(wrong))
    assert summary.error() is not None
    for record in records(tmp_path / "out.jsonl"):
        if record["id"] != "right":
            assert record["error"]["type"] == "invalid_request"
            assert wrong[record["id"]][1] in record["error"]["message"]
            assert "\n" not in record["error"]["message"]
            assert (record["text"], record["usage"]) == (None, None)


@pytest.mark.parametrize("chat", [False, True])
def test_a_template_that_fails_is_told_before_the_first_row(
    model: Model, tmp_path: Path, chat: bool
) -> None:
    messages = {"messages": [{"role": "user", "content": "x"}]}
    rows = [{"prompt": "x"}, messages, {"prompt": "y"}]
    source, out = write_rows(tmp_path / "in.jsonl", rows), tmp_path / "out.jsonl"
    defaults = Defaults(SETTINGS, template="{{ raise_exception('no, thanks') }}", n_predict=3)
    notes: list[str] = []
    if chat:
        with pytest.raises(UsageError, match="no, thanks"):
            batch(model, source, out, defaults=replace(defaults, chat=True))
        assert not out.exists() or not records(out)
    else:
        batch(model, source, out, defaults=defaults, notes=notes)
        assert notes[0].startswith("1 of 3 rows have messages and will fail: the chat template")


def test_messages_alone_need_a_template(
    model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Model, "chat_template", None)
    source = write_rows(tmp_path / "in.jsonl", [{"messages": [{"role": "user", "content": "x"}]}])
    with pytest.raises(UsageError, match="has no chat template: give a --chat-template"):
        batch(model, source, tmp_path / "out.jsonl")


def test_a_chat_and_its_template(model: Model, tmp_path: Path) -> None:
    messages = [{"role": "user", "content": "a=1"}]
    source = write_rows(
        tmp_path / "in.jsonl",
        [{"id": 1, "prompt": "a=1"}, {"id": 2, "messages": messages}, {"id": 3, "prompt": "b"},
         {"id": 4, "messages": [{"role": "system", "content": "own"}, *messages]}],
    )  # fmt: skip
    template = "{% for m in messages %}{{ m.role[0] }}:{{ m.content }}\n{% endfor %}"
    defaults = Defaults(SETTINGS, {"temp": 0.0}, template=template, n_predict=5)
    batch(model, source, tmp_path / "raw.jsonl", defaults=defaults)
    chats = replace(defaults, chat=True, system_prompt="sys")
    batch(model, source, tmp_path / "chat.jsonl", defaults=chats)
    raw, chat = by_id(tmp_path / "raw.jsonl"), by_id(tmp_path / "chat.jsonl")

    def prompt_tokens(text: str) -> int:
        return len(model.tokenize(text))

    lengths = [raw[f"{i}/{i}"]["usage"]["prompt_tokens"] for i in range(1, 5)]
    assert lengths == [*map(prompt_tokens, ("a=1", "u:a=1\n", "b", "s:own\nu:a=1\n"))]
    lengths = [chat[f"{i}/{i}"]["usage"]["prompt_tokens"] for i in range(1, 5)]
    texts = ("s:sys\nu:a=1\n", "s:sys\nu:a=1\n", "s:sys\nu:b\n", "s:own\nu:a=1\n")
    assert lengths == [*map(prompt_tokens, texts)]


def test_control_tokens_of_a_prompt(model: Model) -> None:
    def n_prompt(values: dict[str, Any], **defaults: Any) -> int:
        body = read_body(values)
        row = Row(0, 1, 1, "", body.prompt, body.messages, body.options)
        return len(Requests(model, Defaults(SETTINGS, **defaults)).of(row).prompt)

    text = {"prompt": "<s>a</s>b"}
    parsed, plain = (len(model.tokenize("<s>a</s>b", parse_special=on)) for on in (True, False))
    assert parsed == 4 < plain
    assert n_prompt(text) == n_prompt({**text, "parse_special": None}) == parsed
    assert n_prompt({**text, "parse_special": False}) == plain
    assert n_prompt(text, parse_special=False) == plain
    assert n_prompt({**text, "parse_special": True}, parse_special=False) == parsed
    chat = {"messages": [{"role": "user", "content": "a</s>b"}]}
    assert n_prompt(chat) == n_prompt({"messages": [{"role": "user", "content": "a....b"}]})
    with pytest.raises(UsageError, match="parse_special is for prompts"):
        n_prompt({**chat, "parse_special": True})


def test_the_longest_output(model: Model) -> None:
    def longest(n_predict: int | None, n_prompt: int = 5, **settings: Any) -> int | None:
        defaults = Defaults(replace(SETTINGS, **settings), n_predict=n_predict)
        options = Requests(model, defaults)
        return options._longest(_row().options, defaults.settings, n_prompt)

    assert longest(None) == model.n_ctx_train - 5
    assert longest(None, ctx_size=100) is None  # the engine takes what that leaves
    assert longest(NO_LIMIT) is None
    assert longest(7) == 7
    with pytest.raises(UsageError, match="give the longest output"):
        longest(None, model.n_ctx_train)


def _row() -> Any:
    from scope_cpp.batch.rows import Row

    return Row(0, 1, "a", "d", prompt="x")


# going on


def test_a_run_that_is_stopped_goes_on(
    model: Model, rows: Path, tmp_path: Path, undisturbed: Records
) -> None:
    out = tmp_path / "out.jsonl"
    kept: list[Records] = []
    for n in (0, 40, 45, 60):
        summary = batch(model, rows, out, stop=stop_after(n))
        assert not summary.complete
        assert "the same command goes on with them" in (summary.how_to_go_on() or "")
        assert records(out)[: len(kept)] == kept
        kept = records(out)
    assert 0 < len(kept) < len(ROWS)
    summary = batch(model, rows, out)
    assert summary.complete and summary.how_to_go_on() is None
    assert summary.outcome.n_skipped == len(kept)
    assert records(out)[: len(kept)] == kept
    assert by_id(out) == undisturbed


def test_an_input_may_grow(model: Model, tmp_path: Path, undisturbed: Records) -> None:
    source, out = tmp_path / "rows.jsonl", tmp_path / "out.jsonl"
    batch(model, write_rows(source, ROWS[:5]), out)
    summary = batch(model, write_rows(source, ROWS), out)
    assert (summary.outcome.n_skipped, summary.outcome.n_ok) == (5, 7)
    assert by_id(out) == undisturbed


def test_rows_of_another_input_are_refused(model: Model, rows: Path, tmp_path: Path) -> None:
    source, out = tmp_path / "rows.jsonl", tmp_path / "out.jsonl"
    batch(model, write_rows(source, ROWS[:2]), out)
    before = out.read_bytes()
    write_rows(source, [ROWS[0], {**ROWS[1], "n_predict": 3}])
    with pytest.raises(UsageError, match=r"^'row 1' \(line 2\) has changed"):
        batch(model, source, out)
    write_rows(source, ROWS[1:])
    with pytest.raises(UsageError, match="has 1 records of rows that .* such as id row 0"):
        batch(model, source, out)
    assert out.read_bytes() == before
    assert batch(model, source, out, force=True, limit=2).outcome.n_skipped == 1
    assert len(records(out)) == 3


def test_another_command_is_refused_and_threads_are_not(
    model: Model, rows: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.jsonl"
    batch(model, rows, out, limit=1)
    base = Defaults(SETTINGS, {"temp": 0.0}, n_predict=24)
    for defaults, phrase in (
        (replace(base, n_predict=25), "n_predict 25 instead of 24"),
        (replace(base, seed=1), "seed 1 instead of 0"),
        (replace(base, sampling={"temp": 0.0, "top_k": 3}), "top_k 3 instead of 40"),
        (replace(base, settings=replace(SETTINGS, policy="h2o", options=())), "policy"),
        (replace(base, settings=replace(SETTINGS, budget="100")), 'budget "100"'),
        (replace(base, stop=("x",)), "stop"),
        (replace(base, system_prompt="x"), "system_prompt"),
    ):
        with pytest.raises(UsageError, match="another configuration") as caught:
            batch(model, rows, out, defaults=defaults)
        assert phrase in str(caught.value)
    with pytest.raises(UsageError, match="ordered true instead of false"):
        batch(model, rows, out, ordered=True)
    same = replace(base, sampling={"temp": 0.0, "top_k": 40})
    same = replace(same, settings=replace(SETTINGS, n_threads=2, n_batch=64))
    assert batch(model, rows, out, defaults=same, n_parallel=1, limit=2).outcome.n_skipped == 1


def test_a_seed_that_is_drawn_stays(model: Model, rows: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    drawn = Defaults(SETTINGS, {"temp": 0.0}, seed=-1, n_predict=24)
    first = batch(model, rows, out, defaults=drawn, limit=2)
    assert first.seed >= 0
    again = batch(model, rows, out, defaults=drawn)
    assert again.seed == first.seed
    seeds = {record["id"]: record["seed"] for record in records(out)}
    assert seeds == {id: row_seed(first.seed, f"id {id}") for id in seeds}


def test_two_at_once_are_refused(model: Model, rows: Path, tmp_path: Path) -> None:
    refused = []

    def other() -> bool:
        with pytest.raises(ScopeError, match="another process writes to it"):
            batch(model, rows, tmp_path / "out.jsonl")
        refused.append(True)
        return True

    batch(model, rows, tmp_path / "out.jsonl", stop=other)
    assert refused


# which rows, in which order


def test_in_order_shuffled_limited(
    model: Model, rows: Path, tmp_path: Path, undisturbed: Records
) -> None:
    names = [row["id"] for row in ROWS]
    batch(model, rows, tmp_path / "ordered.jsonl", ordered=True)
    assert ids(tmp_path / "ordered.jsonl") == names
    batch(model, rows, tmp_path / "shuffled.jsonl", shuffle=True, limit=6, n_parallel=1)
    drawn = ids(tmp_path / "shuffled.jsonl")
    assert len(set(drawn)) == 6 and drawn != names[:6]
    batch(model, rows, tmp_path / "shuffled.jsonl", shuffle=True)
    assert by_id(tmp_path / "shuffled.jsonl") == undisturbed
    out = tmp_path / "both.jsonl"
    batch(model, rows, out, shuffle=True, ordered=True, limit=6)
    assert ids(out) == sorted(drawn, key=names.index)
    assert not list(tmp_path.glob("*.early"))


def test_an_ordered_run_that_is_stopped_goes_on(
    model: Model, rows: Path, tmp_path: Path, undisturbed: Records
) -> None:
    out = tmp_path / "out.jsonl"
    for n in (60, 60, 60):
        batch(model, rows, out, stop=stop_after(n), ordered=True)
        assert ids(out) == [row["id"] for row in ROWS][: len(ids(out))]
    batch(model, rows, out, ordered=True)
    assert ids(out) == [row["id"] for row in ROWS]
    assert by_id(out) == undisturbed


def test_fail_fast_ends_with_the_first_error(model: Model, tmp_path: Path) -> None:
    source = write_rows(tmp_path / "in.jsonl", [*ROWS[:3], {"id": "bad"}, *ROWS[3:]])
    summary = batch(model, source, tmp_path / "out.jsonl", fail_fast=True)
    assert (summary.complete, summary.n_failed) == (False, 1)
    found = records(tmp_path / "out.jsonl")
    assert found[-1]["id"] == "bad" and len(found) < len(ROWS)
    again = batch(model, source, tmp_path / "out.jsonl")
    assert again.complete and again.n_failed == 1
    assert batch(model, source, tmp_path / "out.jsonl", limit=3).error() is None


def test_an_empty_input_is_done_at_once(model: Model, tmp_path: Path) -> None:
    source = tmp_path / "in.jsonl"
    source.write_text("\n")
    summary = batch(model, source, tmp_path / "out.jsonl")
    assert summary.complete and summary.n_all == 0
    assert (tmp_path / "out.jsonl").read_text() == ""


# streams


def stream_job(model: Model, stream: Any, write: Callable[[str], None], **asked: Any) -> Job:
    return Job(
        Asked(None, None, n_parallel=2, **asked),
        Defaults(SETTINGS, {"temp": 0.0}, n_predict=24),
        model,
        placement={},
        stdin=stream,
        write=write,
        warn=lambda line: None,
        note=lambda line: None,
    )


def test_a_stream_gives_the_same_records(model: Model, rows: Path, undisturbed: Records) -> None:
    written: list[str] = []
    summary = stream_job(model, io.BytesIO(rows.read_bytes()), written.append).run()
    assert summary.complete and summary.n_all == len(ROWS)
    found = {record["id"]: record["text"] for record in map(json.loads, written)}
    assert found == {record["id"]: record["text"] for record in undisturbed.values()}
    written.clear()
    summary = stream_job(model, rows.open("rb"), written.append, limit=2, ordered=True).run()
    assert [json.loads(line)["id"] for line in written] == ["row 0", "row 1"]


def test_a_row_is_answered_before_the_next_is_written(model: Model) -> None:
    """Somebody at the other end of a pipe waits for the answer before asking again."""
    reading, writing = os.pipe()
    answered = threading.Event()
    answers: list[dict[str, Any]] = []

    def ask() -> None:
        with os.fdopen(writing, "wb", buffering=0) as pipe:
            for row in ROWS[:3]:
                answered.clear()
                pipe.write(json.dumps(row).encode() + b"\n")
                if not answered.wait(60):
                    return

    def take(line: str) -> None:
        answers.append(json.loads(line))
        answered.set()

    thread = threading.Thread(target=ask)
    thread.start()
    with os.fdopen(reading, "rb") as pipe:
        stream_job(model, pipe, take).run()
    thread.join()
    assert [answer["id"] for answer in answers] == [row["id"] for row in ROWS[:3]]


def test_a_stream_that_can_not_be_read_ends_the_run(model: Model) -> None:
    job = stream_job(model, io.BytesIO(b"nonsense\n1\n"), lambda line: None, form="csv")
    with pytest.raises(UsageError, match="no column 'prompt'"):
        job.run()


def test_no_more_rows_are_taken_than_the_engine_can_use(model: Model, rows: Path) -> None:
    feed = StreamFeed(rows.open("rb"), "jsonl")
    defaults = Defaults(SETTINGS, {"temp": 0.0}, n_predict=24)
    taken = []

    class Counting(EngineRunner):
        def submit(self, row: Any) -> None:
            taken.append(row.id)
            super().submit(row)

    with Counting(model, defaults, n_parallel=2, n_cells=500, warn=lambda line: None) as runner:
        run(feed, _Nowhere(), runner, stop=lambda: bool(taken) and runner.status().n_generated > 4)
    assert len(taken) == 4


class _Nowhere:
    def has(self, row: object) -> bool:
        return False

    def skip(self, row: object) -> bool:
        return False

    def put(self, record: object) -> None: ...

    def finish(self) -> None: ...


# refused before anything runs


def test_files_that_can_not_be_right(model: Model, rows: Path, tmp_path: Path) -> None:
    for source, output, asked, phrase in (
        (tmp_path / "nowhere.jsonl", tmp_path / "o", {}, "there is no such file"),
        (tmp_path, tmp_path / "o", {}, "is a folder"),
        (rows, tmp_path, {}, "is a folder"),
        (rows, rows, {}, "-i and -o are both"),
        (rows, tmp_path / "o", {"form": "xml"}, "--format xml"),
        (rows, tmp_path / "o", {"cells": "999999999k"}, "are free"),
    ):
        with pytest.raises(UsageError, match=phrase):
            batch(model, source, output, **asked)
    assert rows.read_text().count("\n") == len(ROWS)


def test_what_was_run_is_noted(model: Model, rows: Path, tmp_path: Path) -> None:
    batch(model, rows, tmp_path / "out.jsonl", limit=1)
    config = json.loads(config_path(tmp_path / "out.jsonl").read_text())
    assert config["input"]["bytes"] == rows.stat().st_size
    assert config["model"]["file"] == "model.gguf"
    assert config["options"]["policy"] == "scope-slide"
    assert config["versions"]["llama_cpp"]


def test_a_plan_makes_the_same_runner_elsewhere(
    model: Model, rows: Path, undisturbed: Records, tmp_path: Path
) -> None:
    import pickle
    from contextlib import ExitStack

    from scope_cpp.batch.shapes import Plain
    from scope_cpp.batch.sink import StreamSink
    from scope_cpp.batch.source import FileSource, RowFeed

    plan = Plan(str(model.path), {}, Defaults(SETTINGS, {"temp": 0.0}, n_predict=24), 2, 200)
    written: list[str] = []
    with ExitStack() as opened:
        _, runner = pickle.loads(pickle.dumps(plan)).open(opened, lambda line: None)
        feed = RowFeed(pickle.loads(pickle.dumps(list(FileSource(rows, "jsonl")))))
        run(feed, StreamSink(written.append, Plain()), runner)
    found = {record["id"]: record["text"] for record in map(json.loads, written)}
    assert found == {record["id"]: record["text"] for record in undisturbed.values()}
