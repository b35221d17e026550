from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from scope_cli.escapes import unescaped

from scope_cpp.errors import UsageError

from .conftest import Run, assert_refused

Generate = Callable[..., dict[str, Any]]


@pytest.mark.parametrize(
    ("text", "read"),
    [
        (r"a\nb\tc\rd", "a\nb\tc\rd"),
        (r"\"\'", "\"'"),
        (r"\\n", r"\n"),
        (r"\\\n", "\\\n"),
        (r"\x41\x0a", "A\n"),
        (r"\xc3\xa9\xC3\xA9", "éé"),
        (r"\xc3é", None),
        ("é\U0001f600\\n", "é\U0001f600\n"),
        (r"\d \x4 \xzz \u0041 \0", r"\d \x4 \xzz \u0041 \0"),  # as llama.cpp leaves them
        ("a\\", "a\\"),
        ("", ""),
    ],
)
def test_escapes_as_llama_cpp_reads_them(text: str, read: str | None) -> None:
    if read is None:
        with pytest.raises(UsageError, match="-p: the bytes .* --no-escape"):
            unescaped(text, "-p")
    else:
        assert unescaped(text, "-p") == read


def test_escapes_of_a_prompt(generate: Generate, tmp_path: Path) -> None:
    def n_prompt(*args: object, stdin: str | None = None) -> int:
        got = generate("--raw", "-n", 1, *args, stdin=stdin)
        return int(got["usage"]["prompt_tokens"])

    assert n_prompt("-p", r"Q\nQ") == 4  # BOS, Q, newline, Q
    assert n_prompt("--no-escape", "-p", r"Q\nQ") == 5
    file = tmp_path / "prompt.txt"
    file.write_text(r"Q\nQ")  # code, say: a file is read as it is
    assert n_prompt("-f", file) == n_prompt(stdin=r"Q\nQ") == 5


@pytest.mark.parametrize("flag", ["--stop", "-r", "--reverse-prompt"])
def test_escapes_of_a_stop_string(generate: Generate, flag: str) -> None:
    grammar = ("--grammar", r'root ::= "a\nb"')
    assert generate("-p", "Hi", *grammar, flag, r"\n")["text"] == "a"
    assert generate("-p", "Hi", *grammar, flag, r"\n", "--no-escape")["text"] == "a\nb"


def test_escapes_in_chat_and_batch(run: Run, tiny: Path, tmp_path: Path) -> None:
    flags = ("--temp", 0, "--grammar", r'root ::= "a\nb"', "--stop", r"\n")
    rows = tmp_path / "rows.txt"
    rows.write_text("Hi\n")
    for more, text in (((), "a"), (("--no-escape",), "a\nb")):
        assert run("chat", tiny, *flags, "-p", "Hi", *more).stdout == text + "\n"
        result = run("batch", tiny, "-i", rows, "-o", "-", *flags, *more)
        assert f'"text": "{text}"'.replace("\n", "\\n") in result.stdout


def test_bytes_that_are_no_text(run: Run, tiny: Path) -> None:
    assert_refused(run("generate", tiny, "-p", r"\xff"), 2, "-p: the bytes given as")
    assert_refused(run("generate", tiny, "-p", "Hi", "--stop", r"\xff"), 2, "--stop: the bytes")
