"""Outputs: whose they are, in which order, and what goes on with them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from scope_cpp.batch.config import config_path
from scope_cpp.batch.order import InOrder
from scope_cpp.batch.record import Record
from scope_cpp.batch.rows import DUPLICATE_ID, FAILED, INVALID_LINE, Failure, Row
from scope_cpp.batch.shapes import OpenAI, Plain, Shape, line_of
from scope_cpp.batch.sink import FileSink, StreamSink, early_path
from scope_cpp.errors import ScopeError, UsageError

MODEL = {"file": "a.gguf", "architecture": "llama", "n_bytes": 10, "header": "h", "weights": "w"}


def config(ordered: bool = False, model: dict[str, Any] = MODEL, **options: Any) -> dict[str, Any]:
    options = {"temp": 0.5, "ordered": ordered, **options}
    return {"format": 1, "model": model, "options": options, "started": "now"}


def row(i: int, **changes: Any) -> Row:
    return Row(**{"index": i, "line": i + 1, "id": f"r{i}", "digest": "d", **changes})


def record(i: int, error: Failure | None = None, **changes: Any) -> Record:
    text = None if error else f"text {i}"
    values = {"index": i, "line": i + 1, "id": f"r{i}", "digest": "d", "text": text}
    return Record(**{**values, "error": error, **changes})


def sink(path: Path, *, force: bool = False, notes: list[str] | None = None) -> FileSink:
    return FileSink(path, Plain(), force=force, note=[].append if notes is None else notes.append)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "out.jsonl"


@pytest.fixture
def written(path: Path) -> Path:
    with sink(path) as out:
        out.open(config())
        out.put(record(0))
        out.put(record(1, Failure(FAILED, "why")))
    return path


def test_links_beside_the_output_are_not_followed(path: Path, tmp_path: Path) -> None:
    """Only the output itself is named by the user; a link there is followed."""
    precious = tmp_path / "precious"
    precious.write_text("precious")
    (tmp_path / "real.jsonl").touch()
    path.symlink_to(tmp_path / "real.jsonl")
    config_path(path).symlink_to(precious)
    early_path(path).symlink_to(tmp_path / "nowhere")
    with sink(path) as out:
        out.open(config(ordered=True))
        out.put(record(0))
        with pytest.raises(ScopeError, match="it is a link, which is not followed here"):
            out.keep_line(b"{}\n")
    assert precious.read_text() == "precious" and not config_path(path).is_symlink()
    assert json.loads((tmp_path / "real.jsonl").read_text())["id"] == "r0"
    assert not (tmp_path / "nowhere").exists()


def test_what_is_there_is_known(written: Path) -> None:
    with sink(written) as out:
        out.open(config())
        assert out.n_before == 2
        assert [out.skip(row(i)) for i in range(2)] == [False, True]
        assert [out.has(row(i)) for i in range(3)] == [True, True, False]
        assert out.has(row(5, id="r1"))


def test_a_half_written_record_is_cut_off_and_told(written: Path) -> None:
    whole = written.read_bytes()
    written.write_bytes(whole + b'{"id": "r2", "text"')
    notes: list[str] = []
    with sink(written, notes=notes) as out:
        out.open(config())
        assert not out.has(row(2))
    assert written.read_bytes() == whole
    assert notes == [f"{written}: cut off a half-written record of 19 bytes"]


@pytest.mark.parametrize(
    ("now", "phrase"),
    [
        (config(temp=0.7), "temp 0.7 instead of 0.5"),
        (config(stop=["x"]), 'stop ["x"] instead of null'),
        (config(True), "ordered true instead of false"),
        (config(model={**MODEL, "weights": "v"}), "other weights"),
        (config(model={**MODEL, "header": "g", "n_bytes": 9}), "the model was a.gguf"),
    ],
)
def test_another_configuration_is_refused_by_name(
    written: Path, now: dict[str, Any], phrase: str
) -> None:
    before = written.read_bytes() + config_path(written).read_bytes()
    with sink(written) as out, pytest.raises(UsageError, match="another configuration") as caught:
        out.open(now)
    assert phrase in str(caught.value)
    assert written.read_bytes() + config_path(written).read_bytes() == before
    with sink(written, force=True) as out:
        out.open(now)
        assert out.has(row(0))
    assert json.loads(config_path(written).read_text())["options"] == now["options"]


def test_the_same_model_under_another_name(written: Path) -> None:
    with sink(written) as out:
        out.open(config(model={**MODEL, "file": "b.gguf"}))
        assert out.n_before == 2


def test_a_file_of_somebody_else(path: Path) -> None:
    path.write_text("mine\n")
    with sink(path) as out, pytest.raises(UsageError, match="is there, but not out.jsonl.run.json"):
        out.open(config())
    with sink(path, force=True) as out, pytest.raises(ScopeError, match="line 1 is no record"):
        out.open(config())
    assert path.read_text() == "mine\n"


def test_an_empty_file_is_a_new_one(written: Path) -> None:
    written.write_text("")
    with sink(written) as out:
        out.open(config(temp=1))
        assert out.n_before == 0


def test_a_changed_row_is_refused_by_name(written: Path) -> None:
    with sink(written) as out:
        out.open(config())
        with pytest.raises(UsageError, match=r"^'r1' \(line 2\) has changed since its record"):
            out.has(row(1, digest="e"))
    with sink(written, force=True) as out:
        out.open(config())
        assert out.has(row(1, digest="e"))


@pytest.mark.parametrize(
    ("line", "phrase"),
    [
        (b"\xff", "line 3 is no record"),
        (b"[]", "line 3 is no record"),
        (b'{"id": "x"}', "line 3 is no record ('error')"),
        (line_of(Plain(), record(0)).strip(), "two records of id r0"),
        (line_of(OpenAI("m"), record(2)).strip(), "line 3 is no record"),
    ],
)
def test_a_damaged_output_is_refused(written: Path, line: bytes, phrase: str) -> None:
    written.write_bytes(written.read_bytes() + line + b"\n")
    before = written.read_bytes()
    with sink(written) as out, pytest.raises(ScopeError) as caught:
        out.open(config())
    assert phrase in str(caught.value)
    assert written.read_bytes() == before


@pytest.mark.parametrize("content", ["{", "[]", '{"format": 1}', '{"format": 99}'])
def test_a_damaged_configuration_is_refused(written: Path, content: str) -> None:
    config_path(written).write_text(content)
    with sink(written) as out, pytest.raises(ScopeError, match="is damaged|has format 99"):
        out.open(config())


@pytest.mark.parametrize("shape", [Plain(), OpenAI("m")])
@pytest.mark.parametrize(
    "made",
    [
        record(0),
        record(1, chat=True),
        record(2, id=5),
        record(3, Failure(FAILED, "why")),
        record(4, Failure(INVALID_LINE, "why"), id=None),
        record(5, Failure(DUPLICATE_ID, "why"), id=None),
    ],
)
def test_a_record_is_known_by_its_line(shape: Shape, made: Record) -> None:
    if isinstance(shape, OpenAI) and isinstance(made.id, int):
        return  # OpenAI's ids are texts
    line = line_of(shape, made)
    assert line.isascii() and line.count(b"\n") == 1
    seen = shape.seen(json.loads(line))
    wanted = Row(made.index, made.line, made.id, made.digest)
    assert (seen.key, seen.digest, seen.failed) == (wanted.key, "d", made.error is not None)


def test_an_openai_record_has_the_shape_of_an_answer() -> None:
    shape = OpenAI("some model")
    chat = shape.values(record(0, chat=True, finish_reason="stop", n_prompt=3, n_generated=4))
    assert (chat["custom_id"], chat["error"], chat["response"]["status_code"]) == ("r0", None, 200)
    body = chat["response"]["body"]
    assert body["model"] == "some model"
    assert body["object"] == "chat.completion"
    assert body["choices"][0]["message"]["content"] == "text 0"
    assert body["usage"]["total_tokens"] == 7
    assert shape.values(record(0))["response"]["body"]["choices"][0]["text"] == "text 0"
    wrong = shape.values(record(0, Failure("invalid_request", "why")))
    assert wrong["response"]["status_code"] == 400
    assert wrong["response"]["body"]["error"]["message"] == "why"
    assert shape.values(record(0, Failure(FAILED, "why")))["response"]["status_code"] == 500
    bad = shape.values(record(0, Failure(INVALID_LINE, "why"), id=None))
    assert (bad["response"], bad["error"]["code"]) == (None, "invalid_line")


# in order


def ids(path: Path) -> list[str]:
    return [json.loads(line)["id"] for line in path.read_bytes().splitlines()]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(
    order=st.permutations(range(6)),
    stops=st.lists(st.integers(0, 6), max_size=3),
    half=st.booleans(),
)
def test_records_are_in_input_order_however_often_a_run_is_killed(
    path: Path, order: list[int], stops: list[int], half: bool
) -> None:
    for old in path.parent.glob("out.jsonl*"):
        old.unlink()
    for n in (*stops, None):
        with sink(path) as out:
            out.open(config(True))
            ordered = InOrder(out)
            left = []
            for i in range(6):
                if ordered.has(row(i)):
                    ordered.skip(row(i))
                else:
                    left.append(i)
            for i in [i for i in order if i in left][:n]:
                ordered.put(record(i))
                assert ids(path) == [f"r{i}" for i in range(len(ids(path)))]
            if n is None:
                ordered.finish()
        early = early_path(path)
        if half and early.exists():
            early.write_bytes(early.read_bytes() + b'{"id": "r')
    assert ids(path) == [f"r{i}" for i in range(6)]
    assert not early_path(path).exists()


def test_a_row_that_is_not_chosen_holds_nothing_up(path: Path) -> None:
    with sink(path) as out:
        out.open(config(True))
        ordered = InOrder(out)
        for i in (5, 3, 0):
            ordered.put(record(i))
        assert ids(path) == ["r0"]
        ordered.finish()
    assert ids(path) == ["r0", "r3", "r5"]


def test_early_records_are_written_when_order_does_not_matter_any_more(path: Path) -> None:
    with sink(path) as out:
        out.open(config(True))
        InOrder(out).put(record(2))
    assert ids(path) == []
    with sink(path, force=True) as out:
        out.open(config(False))
        assert out.has(row(2))
    assert ids(path) == ["r2"]


def test_a_stream_is_in_order_too() -> None:
    written: list[str] = []
    ordered = InOrder(StreamSink(written.append, Plain()))
    for i in (2, 0, 1, 3):
        ordered.put(record(i))
    assert [json.loads(line)["id"] for line in written] == ["r0", "r1", "r2", "r3"]
