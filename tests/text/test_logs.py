from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scope_cpp.engine import logs
from scope_cpp.engine.logs import LogRing
from scope_cpp.native.library import llama_cpp

DEBUG, INFO, WARN, ERROR, CONT = 1, 2, 3, 4, 5


def provoke(tmp_path: Path) -> None:
    """Make llama.cpp itself log an error."""
    path = tmp_path / "no-model.gguf"
    path.write_bytes(b"GGUF but not really")
    params = llama_cpp.llama_model_default_params()
    assert not llama_cpp.llama_model_load_from_file(os.fsencode(path), params)


def test_the_cause_of_a_failure_is_kept_and_nothing_printed(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    logs.clear()
    assert logs.errors() == []
    provoke(tmp_path)
    assert any("failed to load model" in line for line in logs.errors())
    assert capfd.readouterr() == ("", "")


def test_whoever_asks_for_more_of_the_bindings_leaves_our_log_alone(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Tools ask every module for names; the rest of llama-cpp-python would take llama.cpp's log."""
    with pytest.raises(AttributeError, match=r"import llama_cpp\.llama for the rest"):
        _ = llama_cpp.Llama
    logs.clear()
    provoke(tmp_path)
    assert any("failed to load model" in line for line in logs.errors())
    assert capfd.readouterr() == ("", "")


def test_the_log_is_ours_again_after_others_took_it(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """As a process does that imports llama_cpp.llama."""
    foreign = llama_cpp.llama_log_callback(lambda level, text, data: None)
    llama_cpp.llama_log_set(foreign, None)
    logs.clear()
    provoke(tmp_path)
    assert any("failed to load model" in line for line in logs.errors())
    assert capfd.readouterr() == ("", "")


def test_verbose_prints_to_stderr(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    logs.capture(verbose=True)
    try:
        provoke(tmp_path)
    finally:
        logs.capture()
    out, err = capsys.readouterr()
    assert out == ""
    assert "failed to load model" in err


def test_levels() -> None:
    ring = LogRing()
    ring.write(INFO, "fine\n")
    ring.write(WARN, "hm\n")
    ring.write(ERROR, "bad\nworse\n")
    assert ring.lines(ERROR) == ["bad", "worse"]
    assert ring.lines(WARN) == ["hm"]
    assert ring.lines() == ["fine", "hm", "bad", "worse"]
    ring.clear()
    assert ring.lines() == []


def test_debug_lines_do_not_push_others_out() -> None:
    ring = LogRing(2)
    ring.write(ERROR, "bad\n")
    for _ in range(3):
        ring.write(DEBUG, "tensor ")
        ring.write(CONT, "used\n")
    ring.write(DEBUG, "unfinished")
    assert ring.lines() == ["bad"]


def test_a_continued_piece_has_the_level_of_the_one_before() -> None:
    ring = LogRing()
    ring.write(ERROR, "no room for ")
    ring.write(CONT, "3 ")
    ring.write(CONT, "cells\n")
    ring.write(INFO, "dots")
    ring.write(CONT, "..")
    assert ring.lines(ERROR) == ["no room for 3 cells"]
    assert ring.lines(INFO) == ["dots.."]
    ring.write(ERROR, "next\n")
    assert ring.lines() == ["no room for 3 cells", "dots..", "next"]


def test_only_the_last_lines_are_kept() -> None:
    ring = LogRing(n_lines=3)
    for i in range(10):
        ring.write(ERROR, f"line {i}\n")
    assert ring.lines() == ["line 7", "line 8", "line 9"]


@given(st.lists(st.text("ab\n", max_size=6), max_size=6))
def test_lines_do_not_depend_on_how_they_arrive(pieces: list[str]) -> None:
    ring, whole = LogRing(), "".join(pieces)
    ring.write(ERROR, "")
    for piece in pieces:
        ring.write(CONT, piece)
    assert ring.lines(ERROR) == [line for line in whole.split("\n") if line]


def test_what_native_code_prints_is_collected(capfd: pytest.CaptureFixture[str]) -> None:
    with logs.native_stderr() as lines:
        os.write(2, b"one\ntwo \xff\n")
    os.write(2, b"after\n")
    assert lines == ["one", "two \ufffd"]
    assert capfd.readouterr().err == "after\n"


def test_native_stderr_is_restored_after_an_error(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(KeyError), logs.native_stderr():
        raise KeyError
    os.write(2, b"back\n")
    assert capfd.readouterr().err == "back\n"


def test_a_closed_stderr_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def closed(_: int) -> int:
        raise OSError(9, "Bad file descriptor")

    monkeypatch.setattr(os, "dup", closed)
    with logs.native_stderr() as lines:
        pass
    assert lines == []
