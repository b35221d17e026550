"""A model asked for by its name instead of a path."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import pytest

from scope_cpp.engine.catalog import FOLDER_VARIABLE, KNOWN
from tests.cli.conftest import assert_refused


@pytest.fixture
def named(tiny, tmp_path, monkeypatch) -> str:
    """The name of a model of the catalogue that is downloaded already: the tiny one."""
    shutil.copy(tiny, tmp_path / "tiny-one.gguf")
    known = replace(KNOWN["smollm2"], n_bytes=tiny.stat().st_size)
    monkeypatch.setitem(KNOWN, "tiny-one", known)
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path))
    return "tiny-one"


@pytest.mark.parametrize("flags", [(), ("-m",)], ids=["argument", "flag"])
def test_a_name_is_taken_as_a_path_is(run, named, tmp_path, flags):
    result = run("inspect", *flags, named, "--json")
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["path"] == str(tmp_path / "tiny-one.gguf")


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("banana", "banana is neither a file nor the name of a model: the names are smollm2, qwen"),
        ("smollm", " (did you mean smollm2?): the names are smollm2, qwen2.5-coder-0.5b"),
    ],
)
def test_a_name_that_is_none_is_answered_with_those_there_are(run, name, told):
    assert_refused(run("inspect", "-m", name), 2, told)
    assert_refused(run("chat", name, "-p", "Hi"), 2, told)


def test_offline_and_not_there_is_one_line(run, named, tmp_path):
    (tmp_path / "tiny-one.gguf").unlink()
    assert_refused(run("inspect", named, "--offline"), 1, "leave --offline out once")
