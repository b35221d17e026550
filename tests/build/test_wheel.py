"""What is in the wheel, and that it works alone. `scripts/test` makes one; skipped without it."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

WHEELS = Path(__file__).resolve().parents[2] / "build" / "wheel"
VENDOR = "scope_cpp/_vendor/"


@pytest.fixture(scope="module")
def wheel() -> Path:
    found = sorted(WHEELS.glob("scope_cpp-*.whl"))
    if not found:
        pytest.skip(f"no wheel in {WHEELS}: scripts/test makes one")
    return found[-1]


@pytest.fixture(scope="module")
def names(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def test_only_our_packages_are_at_top_level(names):
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"scope_cpp", "scope_cli"}


def test_each_library_is_there_once(names):
    libraries = [Path(name).name for name in names if name.startswith(f"{VENDOR}llama_cpp/lib/")]
    stems = [library.split(".")[0] for library in libraries]
    assert {"libllama", "libggml", "libggml-base", "libggml-cpu"} <= set(stems)
    assert len(stems) == len(set(stems)), libraries


def test_bindings_header_and_licences_are_there(names):
    wanted = ("llama_cpp/__init__.py", "llama_cpp/llama_cpp.py", "llama-kv-evict.h")
    licences = ("LICENSE-llama.cpp.txt", "LICENSE-llama-cpp-python.txt")
    assert {VENDOR + name for name in wanted + licences} <= names
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert any(name.endswith("licenses/THIRD_PARTY_NOTICES.md") for name in names)


def test_no_development_files_are_there(names):
    assert not [name for name in names if "/server/" in name or "__pycache__" in name]
    in_vendor = {name.removeprefix(VENDOR).split("/")[0] for name in names if VENDOR in name}
    licences = {"LICENSE-llama.cpp.txt", "LICENSE-llama-cpp-python.txt"}
    assert in_vendor == {"llama_cpp", "llama-kv-evict.h"} | licences


def test_every_module_of_the_checkout_is_there(names):
    root = Path(__file__).resolve().parents[2]
    for folder, package in (("scope_cpp", "scope_cpp"), ("cli", "scope_cli")):
        for path in (root / folder).rglob("*.py"):
            relative = path.relative_to(root / folder)
            if relative.parts[0] != "_vendor":
                assert f"{package}/{relative.as_posix()}" in names


def test_the_reference_model_is_there(names):
    assert "scope_cpp/reference/model.gguf" in names


def test_unpacked_wheel_loads_its_own_library(wheel, tmp_path):
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    code = """
import scope_cli.program, scope_cpp
from scope_cpp.native import library
print(scope_cli.__file__, scope_cpp.__file__, library.llama_cpp.__file__, sep="\\n")
assert library.llama_cpp.llama_cpp._lib.llama_kv_evict_abi() > 0
"""
    path = f"{tmp_path}:{sysconfig.get_path('purelib')}:{sysconfig.get_path('platlib')}"
    result = subprocess.run(
        [sys.executable, "-S", "-c", code],  # -S: an editable install would come first
        cwd=tmp_path,
        env={"PYTHONPATH": path},
        text=True,
        capture_output=True,
    )
    assert result.returncode == 0, result.stderr
    assert all(line.startswith(str(tmp_path)) for line in result.stdout.split())
