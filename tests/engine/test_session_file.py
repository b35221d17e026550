"""The container: what comes back, and what is refused whatever lies there."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import stat
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scope_cpp.engine import session_file
from scope_cpp.engine.session_file import MAGIC, VERSION, SessionFile, write
from scope_cpp.errors import ScopeError, UsageError

HEADER = {"text": "ä\n\u2028", "number": 1.5, "none": None, "list": [1, [2, "3"]]}
ARRAYS: dict[str, np.ndarray[Any, Any]] = {
    "native": np.arange(5000, dtype=np.uint8),
    "pos": np.arange(24, dtype=np.int32).reshape(2, 3, 4),
    "scores": np.array([[np.nan, -np.inf], [1e-45, 2.0]], np.float32),
    "empty": np.zeros((2, 0, 3), np.float64),
    "turned": np.arange(6, dtype=np.int64).reshape(2, 3).T,
}


def load(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    with SessionFile(path) as file:
        return file.header, {name: file.read(name) for name in file.members}


def craft(path: Path, header: Any, body: bytes = b"", **start: Any) -> Path:
    """A file whose digest is right, whatever it says."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    version, n = start.get("version", VERSION), start.get("n", len(text))
    begin = struct.pack("<8sII", MAGIC, version, n)
    digest = hashlib.blake2b(begin + text, digest_size=32).digest()
    path.write_bytes(begin + digest + text + body)
    return path


def line(**changes: Any) -> dict[str, Any]:
    digest = hashlib.blake2b(b"abcd", digest_size=32).hexdigest()
    return {"name": "a", "type": "uint8", "shape": [4], "digest": digest, **changes}


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("good") / "s"
    write(path, HEADER, ARRAYS)
    return path.read_bytes()


def test_all_comes_back(tmp_path: Path) -> None:
    write(tmp_path / "s", HEADER, ARRAYS)
    header, arrays = load(tmp_path / "s")
    assert header == HEADER
    assert list(arrays) == list(ARRAYS)
    for name, array in ARRAYS.items():
        assert arrays[name].dtype == array.dtype and arrays[name].shape == array.shape
        assert arrays[name].tobytes() == array.tobytes()


def test_a_crafted_file_is_read_as_ours(tmp_path: Path) -> None:
    """The tests below refuse for the reason they name, not because nothing crafted is read."""
    header, arrays = load(craft(tmp_path / "s", {"x": 1, "arrays": [line()]}, b"abcd"))
    assert header == {"x": 1} and arrays["a"].tobytes() == b"abcd"


@given(st.data())
def test_any_changed_byte_is_noticed(
    good: bytes, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    at = data.draw(st.integers(0, len(good) - 1))
    changed = bytearray(good)
    changed[at] ^= data.draw(st.integers(1, 255))
    path = tmp_path_factory.getbasetemp() / "changed"
    path.write_bytes(changed)
    with pytest.raises(UsageError, match="changed|damaged|truncated|version|no saved"):
        load(path)


def test_any_missing_end_is_noticed(good: bytes, tmp_path: Path) -> None:
    for n in [*range(200), *range(200, len(good), 97), len(good) - 1]:
        (tmp_path / "s").write_bytes(good[:n])
        with pytest.raises(UsageError, match="truncated" if n >= 8 else "is no saved"):
            load(tmp_path / "s")


def test_a_longer_file_is_noticed(good: bytes, tmp_path: Path) -> None:
    (tmp_path / "s").write_bytes(good + b"\0")
    with pytest.raises(UsageError, match="1 bytes follow"):
        load(tmp_path / "s")


REFUSED: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (lambda path: None, "does not exist"),
    "directory": (lambda path: path.mkdir(), "is a directory"),
    "empty": (lambda path: path.touch(), "it is empty"),
    "pipe": (lambda path: os.mkfifo(path), "is no regular file"),
    "device": (lambda path: path.symlink_to("/dev/zero"), "is no regular file"),
    "model": (lambda path: path.write_bytes(b"GGUF" + bytes(100)), "is a GGUF model"),
    "text": (lambda path: path.write_text("a letter to somebody"), "is no saved conversation"),
    "later version": (lambda path: craft(path, {"arrays": []}, version=VERSION + 1), "has version"),
    "claims 4 GiB": (lambda path: craft(path, {"arrays": []}, n=2**32 - 1), "claims a header of"),
    "claims 9 MB": (lambda path: craft(path, {"arrays": []}, n=9 * 10**6), "is truncated"),
    "no JSON": (lambda path: craft(path, b"{"), "is no JSON"),
    "no UTF-8": (lambda path: craft(path, b'"\xff"'), "is no JSON"),
    "deep JSON": (lambda path: craft(path, b"[" * 10**6), "is no JSON"),
    "long number": (lambda path: craft(path, b"9" * 10**6), "is no JSON"),
    "half a character": (lambda path: craft(path, b'{"a": "\\ud800"}'), "is no JSON"),
    "JSON list": (lambda path: craft(path, []), "no JSON object"),
    "no list": (lambda path: craft(path, {}), "lists no arrays"),
    "array of 8 TiB": (
        lambda path: craft(path, {"arrays": [line(shape=[2**43])]}, b"abcd"),
        "is truncated",
    ),
    "twice": (
        lambda path: craft(path, {"arrays": [line(), line()]}, b"abcdabcd"),
        "makes no sense",
    ),
    "wrong digest": (
        lambda path: craft(path, {"arrays": [line(digest="00")]}, b"abcd"),
        "its a was changed",
    ),
}
NONSENSE = [
    5,
    {"name": 1},
    {"type": "object"},
    {"type": "O"},
    {"type": ["uint8"]},
    {"shape": 4},
    {"shape": [-4]},
    {"shape": [4.0]},
    {"shape": [True]},
    {"shape": [0, 2**47, 2**47]},
    {"shape": [2**63, 2]},
    {"shape": [1] * 65},
    {"digest": None},
]


@pytest.mark.parametrize("what", REFUSED)
def test_refused(tmp_path: Path, what: str) -> None:
    make, reason = REFUSED[what]
    make(tmp_path / "s")
    with pytest.raises(UsageError, match=reason) as error:
        load(tmp_path / "s")
    assert str(tmp_path / "s") in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("what", NONSENSE, ids=str)
def test_an_array_that_cannot_be(tmp_path: Path, what: Any) -> None:
    item = {**line(), **what} if isinstance(what, dict) else what
    with pytest.raises(UsageError, match="makes no sense"):
        load(craft(tmp_path / "s", {"arrays": [item]}, b"abcd"))


def test_a_missing_array(tmp_path: Path) -> None:
    write(tmp_path / "s", HEADER, {})
    with SessionFile(tmp_path / "s") as file, pytest.raises(UsageError, match="its pos is missing"):
        file.read("pos")


# writing


def test_half_a_character_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="not valid Unicode"):
        write(tmp_path / "s", {"stop": "\udcff"}, {})
    assert not list(tmp_path.iterdir())


def test_the_file_is_its_owners_alone(tmp_path: Path) -> None:
    path = tmp_path / "s"
    old = os.umask(0)
    try:
        write(path, HEADER, ARRAYS)
    finally:
        os.umask(old)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_file_behind_a_link_is_replaced_and_the_link_stays(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "real")
    for n in (1, 2):
        write(tmp_path / "link", {"n": n}, {})
    assert (tmp_path / "link").is_symlink()
    assert load(tmp_path / "real")[0] == {"n": 2}


def full_disk(*_: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def interrupted(*_: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("fails", ["fsync", "replace"])
@pytest.mark.parametrize("how", [full_disk, interrupted])
def test_if_writing_fails_the_old_file_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: str, how: Callable[..., None]
) -> None:
    path = tmp_path / "s"
    write(path, {"n": 1}, ARRAYS)
    before = path.read_bytes()
    monkeypatch.setattr(session_file.os, fails, how)
    with pytest.raises((ScopeError, KeyboardInterrupt)) as error:
        write(path, {"n": 2}, ARRAYS)
    if how is full_disk:
        assert "No space left" in str(error.value) and str(path) in str(error.value)
    assert path.read_bytes() == before
    assert [item.name for item in tmp_path.iterdir()] == ["s"]


def test_if_the_process_ends_before_the_file_is_replaced_the_old_one_stays(tmp_path: Path) -> None:
    path = tmp_path / "s"
    write(path, {"n": 1}, ARRAYS)
    code = (
        "import os; from scope_cpp.engine import session_file\n"
        "os.replace = lambda *_: os._exit(7)\n"
        f"session_file.write({str(path)!r}, {{'n': 2}}, {{}})"
    )
    root = Path(__file__).resolve().parents[2]
    assert subprocess.run([sys.executable, "-c", code], cwd=root).returncode == 7
    assert load(path)[0] == {"n": 1}
    write(path, {"n": 3}, {})
    assert load(path)[0] == {"n": 3}


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
@pytest.mark.parametrize("target", ["/dev/full", "/dev/null"])
def test_a_device_is_not_replaced(target: str) -> None:
    with pytest.raises(UsageError, match="is no regular file"):
        write(target, HEADER, {})
    assert Path(target).is_char_device()


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("", "is a directory"),
        ("missing/s", "folder does not exist"),
        ("text/s", "folder does not exist"),
        ("text", "is no saved conversation"),
        ("a\0b", "null"),
        ("x" * 300, "name too long"),
    ],
)
def test_a_path_that_cannot_be(tmp_path: Path, name: str, reason: str) -> None:
    (tmp_path / "text").write_text("precious")
    with pytest.raises(UsageError, match=f"(?i){reason}"):
        write(tmp_path / name if name else tmp_path, HEADER, {})
    assert (tmp_path / "text").read_text() == "precious"
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(ScopeError, match="Permission denied"):
        write(tmp_path / "s", HEADER, {})
    tmp_path.chmod(0o700)


def test_a_header_too_large_to_be_read_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session_file, "_LARGEST_HEADER", 100)
    with pytest.raises(ScopeError, match="over 100 bytes"):
        write(tmp_path / "s", HEADER, ARRAYS)
    assert not list(tmp_path.iterdir())
