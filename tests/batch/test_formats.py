"""From files to rows: every format, and everything that can be wrong with a line."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scope_cpp.batch import input_lines, table
from scope_cpp.batch.formats import find_format, read_rows
from scope_cpp.batch.rows import Row
from scope_cpp.errors import UsageError


def read(data: str | bytes, form: str = "jsonl") -> list[Row]:
    return list(read_rows(io.BytesIO(data.encode() if isinstance(data, str) else data), form))


def error(data: str | bytes, form: str = "jsonl") -> str:
    (row,) = read(data, form)
    assert row.error is not None
    assert row.prompt is None and row.messages is None
    return f"{row.error.type}: {row.error.message}"


def test_json_lines() -> None:
    rows = read(
        b'\xef\xbb\xbf{"id": "a", "prompt": "one", "n_predict": 5, "temperature": 0.5}\r\n'
        b"\n"
        b'{"prompt": [1, 2], "stop": "x", "policy": "h2o", "options": {"recent": 4}}\n'
        b'{"id": 7, "messages": [{"role": "developer", '
        b'"content": [{"type": "text", "text": "t"}]}]}'
    )
    assert [(row.index, row.line, row.id) for row in rows] == [(0, 1, "a"), (1, 3, 3), (2, 4, 7)]
    assert [row.prompt for row in rows] == ["one", (1, 2), None]
    assert rows[0].options.n_predict == 5
    assert rows[0].options.sampling == {"temp": 0.5}
    assert rows[1].options.stop == ("x",)
    assert rows[1].options.settings == {"policy": "h2o", "options": ("recent=4",)}
    assert rows[2].messages == ({"role": "system", "content": "t"},)


def test_openai_lines() -> None:
    body = {
        "model": "gpt-4o-mini", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 3,
        "n": 1, "stream": False, "user": "u", "logprobs": None, "scope": {"budget": 64},
        "response_format": {"type": "json_schema", "json_schema": {"schema": {"type": "array"}}},
    }  # fmt: skip
    lines = [
        {"custom_id": "1", "method": "POST", "url": "/v1/chat/completions", "body": body},
        {"custom_id": "2", "method": "POST", "url": "/v1/completions", "body": {"prompt": "x"}},
    ]
    chat, completion = read("\n".join(map(json.dumps, lines)), "openai")
    assert (chat.id, chat.chat, completion.id, completion.chat) == ("1", True, "2", False)
    assert chat.error is completion.error is None
    assert chat.options.n_predict == 3
    assert chat.options.settings == {"budget": "64"}
    assert chat.options.sampling == {"json_schema": '{"type": "array"}'}
    assert completion.prompt == "x"


def test_csv() -> None:
    rows = read(
        "id,prompt,temp,n_predict,ignore_eos,stop,options\r\n"
        'a,"two\nlines, ""quoted""",0.5,7,TRUE,END,interval=4\r\n'
        "\r\n"
        ',x,,,,"[""p"",""q""]",\r\n',
        "csv",
    )
    assert [(row.line, row.id, row.prompt) for row in rows] == [
        (2, "a", 'two\nlines, "quoted"'),
        (5, 5, "x"),
    ]
    first, second = (row.options for row in rows)
    assert first.sampling == {"temp": 0.5, "ignore_eos": True}
    assert (first.n_predict, first.stop, first.settings) == (
        7,
        ("END",),
        {"options": ("interval=4",)},
    )
    assert second.stop == ("p", "q")
    assert not second.sampling


def test_plain_text() -> None:
    rows = read("one \n\n  \r\ntwo\r\nthree", "text")
    assert [(row.id, row.prompt) for row in rows] == [(1, "one "), (4, "two"), (5, "three")]


@pytest.mark.parametrize(
    ("line", "phrase"),
    [
        ("not json", "invalid_line: line 1 is no JSON: Expecting value, column 1"),
        ('{"id": 1', "invalid_line: line 1 is no JSON"),
        ("[1]", "invalid_line: line 1 is no JSON object"),
        ("9" * 5000, "invalid_line: line 1 is no JSON that can be read: Exceeds the limit"),
        ('{"a":' * 100_000, "nested too deeply"),
        ('{"prompt": "x", "stop": ' + "[" * 900 + "]" * 900 + "}", "stop is"),
        (b'{"prompt": "\xff"}', "line 1 can't be read: byte 12 is not UTF-8"),
        (b'{"prompt": "\0"}', "line 1 can't be read: byte 12 is NUL"),
        ('{"id": true, "prompt": "x"}', "an id that is neither a text nor a whole number"),
        ('{"id": {}, "prompt": "x"}', "an id that is neither"),
        ('{"id": "", "prompt": "x"}', "an id that is neither"),
        ('{"id": "\\ud800", "prompt": "x"}', "half a character"),
        ('{"custom_id": "a", "body": {}}', "give --format openai"),
        ("{}", "invalid_request: there is no prompt and no messages"),
        ('{"prompt": null}', "there is no prompt and no messages"),
        ('{"prompt": " "}', "the prompt is empty"),
        ('{"prompt": "\\udc80"}', "the prompt has half a character"),
        ('{"prompt": ["a", "b"]}', "give one row for each prompt"),
        ('{"prompt": [1, true]}', "neither a text nor a list of tokens"),
        ('{"prompt": "x", "messages": []}', "both given"),
        ('{"messages": []}', "give at least one"),
        ('{"messages": [{"content": "x"}]}', "message 0 has no role"),
        ('{"messages": [{"role": "user"}]}', "message 0 has no content"),
        (
            '{"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}',
            "part of type 'image_url'",
        ),
        ('{"prompt": "x", "nonsense": 1}', "unknown key 'nonsense'; valid are budget"),
        ('{"prompt": "x", "temprature": 1}', "'temprature' (did you mean temperature?); valid are"),
        ('{"prompt": "x", "cache_type_k": "f16"}', "of the whole run: leave it out, give -ctk"),
        ('{"prompt": "x", "temp": 1, "temperature": 1}', "are the same: leave one out"),
        ('{"prompt": "x", "max_tokens": 0}', "max_tokens is 0: give at least 1, or -1"),
        ('{"prompt": "x", "n_predict": 1.5}', "n_predict is 1.5: give a whole number"),
        ('{"prompt": "x", "seed": true}', "seed is true"),
        ('{"prompt": "x", "temp": "hot"}', 'temp is "hot": give a number'),
        ('{"prompt": "x", "ignore_eos": 1}', "give true or false"),
        ('{"prompt": "x", "stop": ["a", 1]}', "stop is"),
        ('{"prompt": "x", "policy": 5}', "policy is 5: give a text"),
        ('{"prompt": "x", "budget": []}', "budget is []"),
        ('{"prompt": "x", "options": 3}', "options is 3"),
        ('{"prompt": "x", "logit_bias": {"a": 1}}', "logit_bias is"),
        ('{"prompt": "x", "response_format": {"type": "xml"}}', "its type is text, json_object"),
        ('{"prompt": "x", "response_format": {"type": "json_schema"}}', "needs json_schema"),
        (
            '{"prompt": "x", "json_schema": {}, "response_format": {"type": "json_object"}}',
            "response_format and json_schema",
        ),
    ],
)  # fmt: skip
def test_a_bad_line_is_an_error_that_says_why(line: str | bytes, phrase: str) -> None:
    assert phrase in error(line)


def request(**changes: object) -> str:
    line = {"custom_id": "a", "method": "POST", "url": "/v1/completions", "body": {"prompt": "x"}}
    return json.dumps({**line, **changes})


@pytest.mark.parametrize(
    ("line", "phrase"),
    [
        ('{"id": "a", "prompt": "x"}', "has no custom_id"),
        (request(custom_id=5), "has no custom_id"),
        (request(extra=1), "unknown key 'extra'"),
        (request(method="GET"), "POST is the only one"),
        (request(url="/v1/embeddings"), "url '/v1/embeddings'"),
        (request(body=[]), "body is no JSON object"),
        (request(body={"messages": [{"role": "user", "content": "x"}]}), "there is no prompt"),
        (request(url="/v1/chat/completions"), "there is no messages"),
        (request(body={"prompt": "x", "n": 2}), "n 2 is not to be had: a row has one answer"),
        (request(body={"prompt": "x", "stream": True}), "stream true is not to be had"),
        (request(body={"prompt": "x", "logprobs": 3}), "no log probabilities"),
        (request(body={"prompt": "x", "tools": [{}]}), "functions are not called"),
        (request(body={"prompt": "x", "scope": 1}), "scope is no JSON object"),
        (request(body={"prompt": "x", "top_k": 1, "scope": {"top_k": 2}}), "beside it"),
    ],
)
def test_a_bad_request_is_an_error_that_says_why(line: str, phrase: str) -> None:
    assert phrase in error(line, "openai")


@pytest.mark.parametrize(
    ("text", "phrase"),
    [
        ("prompt,temp\nx\n", "line 2 has 1 cells, the header has 2"),
        ('prompt\n"x"y\n', 'line 2 has text behind a closing quote ("): write quotes within'),
        ('prompt\n"x\ny\n', 'line 2 has a quote (") that is never closed: close it, or'),
        (b"prompt\nx\ry\n", "line 2 has a carriage return that ends no line: save the file"),
        (b"prompt\n\xe4\n", "line 2 can't be read: byte 0 is not UTF-8: save it as UTF-8"),
        (b"prompt\na\0b\n", "NUL"),
        ("prompt,temp\nx,warm\n", 'temp is "warm"'),
        ("prompt,messages\nx,[]\n", "both given"),
        ("id,prompt\na,\n", "there is no prompt"),
    ],
)
def test_a_bad_line_of_a_csv_file(text: str | bytes, phrase: str) -> None:
    assert phrase in error(text, "csv")


@pytest.mark.parametrize(
    ("text", "phrase"),
    [
        ("", "no columns at all"),
        ("id;prompt\n1;x\n", "has no column 'prompt', but 'id;prompt'"),
        ("prompt,nonsense\n", "unknown column 'nonsense'"),
        ("prompt,prompt\n", "two columns are called 'prompt'"),
        ('"prompt"x\n', "the first line of the CSV file has text behind a closing quote"),
        ("prömpt\nx\n".encode("latin-1"), "byte 2 is not UTF-8: save it as UTF-8"),
        ("prompt\nx\n".encode("utf-16-le"), "NUL"),
    ],
)
def test_a_bad_header_is_a_wrong_request(text: str | bytes, phrase: str) -> None:
    with pytest.raises(UsageError, match="^.*$") as caught:
        read(text, "csv")
    assert phrase in str(caught.value)


def test_rows_after_a_bad_line_are_read() -> None:
    assert [row.error is None for row in read('{\n{"prompt": "x"}\n')] == [False, True]
    rows = read('prompt,temp\n"x"y,1\nz,1\n', "csv")
    assert [row.error is None for row in rows] == [False, True]


def test_a_second_row_of_an_id_is_an_error_that_has_none() -> None:
    rows = read('{"id": 3, "prompt": "x"}\n{"id": "3", "prompt": "y"}\n{"prompt": "z"}')
    assert [row.id for row in rows] == [3, None, None]
    assert [row.error.type if row.error else None for row in rows] == [
        None, "duplicate_id", "duplicate_id",
    ]  # fmt: skip
    assert len({row.key for row in rows}) == 3


def test_a_line_that_is_too_long_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(input_lines, "MOST_LINE", 40)
    rows = read(json.dumps({"prompt": "x" * 200}) + "\n" + json.dumps({"prompt": "y"}))
    assert rows[0].error is not None and "is longer than" in rows[0].error.message
    assert (rows[1].line, rows[1].prompt) == (2, "y")
    assert read(b'{"prompt": "%s"}\n' % (b"x" * 26))[0].error is None  # 40 bytes


class Counted(io.BytesIO):
    n_lines = 0

    def readline(self, size: int | None = -1) -> bytes:
        self.n_lines += 1
        return super().readline(-1 if size is None else size)


@pytest.mark.parametrize("form", ["jsonl", "text", "csv"])
def test_lines_are_read_no_further_than_needed(form: str) -> None:
    header = "prompt\n" if form == "csv" else ""
    file = Counted((header + '{"prompt": 1}\n' * 100).encode())
    rows = read_rows(file, form)
    for _ in range(3):
        next(rows)
    assert file.n_lines == 3 + bool(header)


def test_a_digest_stands_for_what_is_asked_in_any_order() -> None:
    same = read('{"prompt": "x", "temp": 1, "id": 1}\n{"temp": 1, "id": 2, "prompt": "x"}')
    (again,) = read('{"id": 1, "temp": 1, "prompt": "x"}')
    (other,) = read('{"id": 1, "temp": 2, "prompt": "x"}')
    assert same[0].digest == again.digest
    assert len({same[0].digest, same[1].digest, other.digest}) == 3


def test_the_format_is_known_by_ending_and_first_line(tmp_path: Path) -> None:
    for name, content, form in (
        ("a.jsonl", '{"prompt": "\\"custom_id\\""}', "jsonl"),
        ("b.ndjson", "", "jsonl"),
        ("c.jsonl", "\n" + request(), "openai"),
        ("d.CSV", "", "csv"),
        ("e.txt", "", "text"),
    ):
        path = tmp_path / name
        path.write_text(content)
        assert find_format(path) == form
        assert find_format(path, "text") == "text"
    assert find_format(None) == "jsonl"
    with pytest.raises(UsageError, match="tells no format"):
        find_format(tmp_path / "f.parquet")
    with pytest.raises(UsageError, match="--format xml; valid are jsonl, openai, csv, text"):
        find_format(None, "xml")


@pytest.mark.parametrize("form", ["jsonl", "openai", "csv", "text"])
@pytest.mark.parametrize("encoding", ["utf-16", "utf-32"])
def test_a_file_of_another_encoding_is_a_wrong_request(form: str, encoding: str) -> None:
    with pytest.raises(UsageError) as caught:
        read("prompt\nx\n".encode(encoding), form)
    name = encoding.upper()
    assert str(caught.value) == (
        f"the input can't be read: it is {name}, not UTF-8: save it as UTF-8"
    )


@pytest.mark.parametrize("form", ["jsonl", "openai", "csv", "text"])
@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"])
def test_a_file_of_another_encoding_without_a_mark_is_one_too(form: str, encoding: str) -> None:
    with pytest.raises(UsageError) as caught:
        read("id,prompt\r\n1,x\r\n".encode(encoding), form)
    nul = int(encoding.endswith("le"))
    assert str(caught.value) == (
        f"the input can't be read: byte {nul} is NUL, as in UTF-16 or in a binary file: save it as"
        " UTF-8"
    )


def test_a_byte_order_mark_of_utf_8_is_passed_over() -> None:
    assert [row.prompt for row in read("\ufeffprompt\nä\n", "csv")] == ["ä"]
    assert [row.prompt for row in read("\ufeffä\n", "text")] == ["ä"]
    assert [row.prompt for row in read('\ufeff{"prompt": "ä"}')] == ["ä"]


def test_line_ends_of_old_macs() -> None:
    assert [row.prompt for row in read("prompt,temp\rx,1\r\ry,2\r", "csv")] == ["x", "y"]
    assert [row.prompt for row in read("one\r\rtwo", "text")] == ["one", "two"]
    assert [row.line for row in read('{"prompt": "x"}\r{"prompt": "y"}\r')] == [1, 2]


def test_a_csv_line_that_is_too_long_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also within quotes, which do not stay open then; what follows is read."""
    monkeypatch.setattr(input_lines, "MOST_LINE", 40)
    for cell in ("x" * 50, '"' + "x" * 50 + '"'):
        bad, good = read(f"prompt,temp\n{cell},1\nz,2\n", "csv")
        assert bad.error is not None and "line 2 is longer than" in bad.error.message
        assert (good.line, good.prompt) == (3, "z")


def test_a_csv_cell_of_many_lines_that_is_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table, "MOST_LINE", 40)
    bad, good = read('prompt\n"' + "x" * 30 + "\n" + "x" * 30 + '"\nz\n', "csv")
    assert bad.error is not None and "line 2 has a cell of more than" in bad.error.message
    assert good.prompt is not None


@given(st.binary(max_size=200), st.sampled_from(["jsonl", "openai", "text"]))
def test_no_bytes_are_too_strange(data: bytes, form: str) -> None:
    if data.startswith((b"\xff\xfe", b"\xfe\xff")) or b"\0" in data[:4]:
        return
    for row in read(data, form):
        assert row.error is not None or row.prompt is not None or row.messages is not None


@given(st.binary(max_size=200))
def test_no_bytes_are_too_strange_for_a_csv_file(data: bytes) -> None:
    for row in read(b"prompt,temp\n" + data, "csv"):
        assert row.error is not None or row.prompt is not None
