"""Bad data: a bad row is named and skipped, a bad file is an error that says what to do."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from scope_cpp.errors import ScopeError, UsageError
from scope_cpp.eval.task import Item, Source
from scope_cpp.eval.tasks import find
from tests.eval.test_tasks import FILES, FIXTURES, OPTIONS

JSONL = ["longgenbench-gsm8k", "longgenbench-csqa", "gsm8k", "math500"]


def good_lines(name: str) -> list[str]:
    return (FIXTURES / FILES[name]).read_text(encoding="utf-8").splitlines()


def read(name: str, path: Path) -> tuple[list[Item], list[str]]:
    warnings: list[str] = []
    source = Source(path, warn=warnings.append, options=OPTIONS[name] if name == "gsm8k" else ())
    return find(name).items(source), warnings


@pytest.mark.parametrize("name", JSONL)
def test_a_broken_line_is_named_and_the_rest_is_read(name: str, tmp_path: Path) -> None:
    first, *rest = good_lines(name)
    path = tmp_path / "data.jsonl"
    path.write_text("\n".join([first, first[:40], *rest, "[1]"]), encoding="utf-8")

    items, warnings = read(name, path)
    whole, _ = read(name, FIXTURES / FILES[name])

    assert [item.prompt for item in items] == [item.prompt for item in whole]
    assert warnings[0].startswith(f"{path}, line 2: no JSON (")
    assert warnings[1:] == [f"{path}, line {len(rest) + 3}: no JSON object; skipped"]


@pytest.mark.parametrize("name", JSONL)
@pytest.mark.parametrize("kind", ["crlf", "bom", "blank lines", "no newline at the end"])
def test_files_of_other_systems_are_read(name: str, kind: str, tmp_path: Path) -> None:
    data = (FIXTURES / FILES[name]).read_bytes()
    changed = {
        "crlf": data.replace(b"\n", b"\r\n"),
        "bom": b"\xef\xbb\xbf" + data,
        "blank lines": data + b"\n \n",
        "no newline at the end": data.rstrip(),
    }
    path = tmp_path / "data.jsonl"
    path.write_bytes(changed[kind])

    assert read(name, path) == read(name, FIXTURES / FILES[name])


def test_line_separators_inside_a_text_are_no_line_ends(tmp_path: Path) -> None:
    row = {"problem": "one\u2028two\u0085three", "answer": "3"}
    path = tmp_path / "data.jsonl"
    path.write_text(json.dumps(row, ensure_ascii=False), encoding="utf-8")

    [item], warnings = read("math500", path)

    assert "one\u2028two\u0085three" in item.prompt
    assert warnings == []


LETTERS = {"prompt": "Question_1:\nWhat?", "answers": ["A"]}


@pytest.mark.parametrize(
    ("name", "row", "reason"),
    [
        ("gsm8k", {"question": "What?"}, "no field 'answer' (it has 'question')"),
        ("gsm8k", {"question": "", "answer": "#### 1"}, "'question' must be a text that is not"),
        ("gsm8k", {"question": "What?", "answer": "1"}, "'answer' must end with #### and a"),
        ("gsm8k", {"question": "What?", "answer": "#### none"}, "'answer' must end with ####"),
        ("math500", {"problem": 3, "answer": "1"}, "'problem' must be a text"),
        ("longgenbench-csqa", {**LETTERS, "answers": []}, "'answers' must be a list that is not"),
        ("longgenbench-csqa", {**LETTERS, "answers": [1]}, "'answers' must hold texts only"),
        (
            "longgenbench-csqa",
            {**LETTERS, "answers": ["F"]},
            "neither A/B/C/D/E nor ends with ####",
        ),
        ("longgenbench-csqa", {**LETTERS, "answers": ["A", "B"]}, "2 answers, but the prompt does"),
        ("longgenbench-csqa", {**LETTERS, "prompt": "What?"}, "1 answers, but the prompt does not"),
        ("longgenbench-gsm8k", LETTERS, "this is a file of the task longgenbench-csqa or"),
        ("longgenbench-csqa", {**LETTERS, "answers": ["#### 4"]}, "of the task longgenbench-gsm8k"),
        ("reference", {"prompt": "x"}, "no field 'answers'"),
        ("reference", {"prompt": "x", "answers": [1.5]}, "'answers' must hold whole numbers only"),
        (
            "reference",
            {"prompt": "x", "mix": "hubs", "expected": "y", "answers": [1], "refers": [0, 0]},
            "'refers' must be as long as 'answers'",
        ),
    ],
)
def test_a_wrong_schema_names_the_field(
    name: str, row: dict[str, Any], reason: str, tmp_path: Path
) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text(json.dumps(row))
    with pytest.raises(ScopeError) as error:
        read(name, path)

    assert f"{path}: no row that the task {name} can use (line 1: " in str(error.value)
    assert reason in str(error.value)
    assert find(name).where in str(error.value)


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"nums": [1, 2, 3], "target": 6}, "four numbers"),
        ({"nums": [1, 2, 3, 4.5], "target": 6}, "'nums' must hold whole numbers only"),
        ({"nums": [1, 1, 1, 1], "target": 999}, "999 cannot be reached from [1, 1, 1, 1]"),
        ({"nums": [1, 2, 3, 4], "target": "10"}, "'target' must be a whole number"),
    ],
)
def test_puzzles_are_checked(row: dict[str, Any], reason: str, tmp_path: Path) -> None:
    shutil.copy(FIXTURES / "longproc/prompts.yaml", tmp_path)
    path = tmp_path / "countdown.json"
    path.write_text(json.dumps([{"nums": [1, 2, 3, 4], "target": 10}, row]))

    items, [warning] = read("longproc-countdown", path)

    assert [item.id for item in items] == ["longproc-countdown-1"]
    assert warning.startswith(f"{path}, entry 2: ")
    assert reason in warning


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"html_path": "webpage/other.html"}, "the page webpage/other.html is not beside the file"),
        ({"html_path": "../../conftest.py"}, "leads out of the data's folder"),
        ({"gt": "name"}, "'gt': the output has no row below a header"),
        ({"task_id": "garden-1"}, "the id 'garden-1' is there already"),
    ],
)
def test_pages_are_checked(change: dict[str, str], reason: str, tmp_path: Path) -> None:
    shutil.copytree(FIXTURES / "tables", tmp_path / "tables")
    path = tmp_path / "tables/html_to_tsv_0.5k.json"
    [row] = json.loads(path.read_text())
    path.write_text(json.dumps([row, {**row, **change}]))

    items, [warning] = read("longproc-html-to-tsv", path)

    assert len(items) == 1
    assert reason in warning


@pytest.mark.parametrize("name", FILES)
def test_absent_data_says_where_to_get_it(name: str, tmp_path: Path) -> None:
    for data, reason in (
        (None, f"the task {name} reads a file: give it by --data. "),
        (tmp_path / "none.jsonl", f"{tmp_path / 'none.jsonl'} does not exist. "),
        (tmp_path, f"{tmp_path} is a folder: give a file of it. "),
    ):
        with pytest.raises(UsageError) as error:
            find(name).items(Source(data, tokenize=lambda text: [1]))
        assert str(error.value) == reason + find(name).where
        assert "https://" in find(name).where


@pytest.mark.parametrize("name", [*FILES, "reference", "needle"])
def test_an_empty_file_is_an_error(name: str, tmp_path: Path) -> None:
    path = tmp_path / "data"
    path.write_bytes(b" \n")
    shutil.copy(FIXTURES / "longproc/prompts.yaml", tmp_path)
    with pytest.raises(ScopeError, match="is empty: download it again"):
        find(name).items(Source(path, tokenize=lambda text: [1]))


def test_without_prompts_longproc_says_where_they_are(tmp_path: Path) -> None:
    path = Path(shutil.copy(FIXTURES / "longproc/countdown_0.5k.json", tmp_path))
    with pytest.raises(UsageError, match=r"prompts.yaml does not exist: it has the prompts. Get"):
        read("longproc-countdown", path)
    (tmp_path / "prompts.yaml").write_text("OTHER: 1\n")
    with pytest.raises(ScopeError, match="has no text USER_PROMPT"):
        read("longproc-countdown", path)
    (tmp_path / "prompts.yaml").write_text("USER_PROMPT: |-\n  {secret}\n")
    with pytest.raises(ScopeError, match="asks for {secret}"):
        read("longproc-countdown", path)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"[1, 2", "is broken: no JSON"),
        (b"\xff\xfe{\x00}\x00", "it is UTF-16, not UTF-8: save it as UTF-8"),
        (b'{"a": "\xe4"}', r"no row .*\(line 1: not UTF-8\)"),
        (b"[" * 100_000, "is broken: nested too deeply"),
        (b'{"a":' * 100_000, r"\(line 1: nested too deeply\)"),
        (b"[]", r"\(it has none\)"),
    ],
)
def test_files_of_another_kind_are_errors(data: bytes, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "data.json"
    path.write_bytes(data)
    with pytest.raises(ScopeError, match=reason):
        read("math500", path)


@pytest.mark.parametrize("name", ["perplexity", "needle"])
def test_texts_are_utf_8(name: str, tmp_path: Path) -> None:
    path = tmp_path / "text"
    for encoding, reason in (
        ("latin-1", "byte 2 is not UTF-8: save it as UTF-8"),
        ("utf-16", "it is UTF-16, not UTF-8: save it as UTF-8"),
        ("utf-16-le", "byte 1 is NUL"),
    ):
        path.write_bytes("Grüße".encode(encoding))
        with pytest.raises(ScopeError, match=reason):
            find(name).items(Source(path, tokenize=lambda text: [1]))


def test_many_bad_rows_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text('{"problem": "1 + 1?", "answer": "2"}\n' + "{}\n" * 100)

    items, warnings = read("math500", path)

    assert len(items) == 1
    assert len(warnings) == 6
    assert warnings[-1] == f"{path}: 95 further rows skipped"


def test_ids_do_not_move_when_a_row_is_bad(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    first, second, third = good_lines("gsm8k")
    path.write_text("\n".join([first, "{", third]), encoding="utf-8")

    items, _ = read("gsm8k", path)

    assert [item.id for item in items] == ["gsm8k-3"]


def test_a_short_text_is_no_haystack(tmp_path: Path) -> None:
    path = tmp_path / "text"
    path.write_text("A short tale.")
    with pytest.raises(ScopeError, match="has 14 characters of text, a haystack 6000"):
        read("needle", path)
