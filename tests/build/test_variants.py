"""The wheel for any CPU, variant by variant. Skipped unless `scripts/build_wheel.py` made one.

auditwheel sees which libraries a library is linked with, and the variants are loaded by name.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.conftest import Tiny

ROOT = Path(__file__).resolve().parents[2]
WHEELS = Path(os.environ.get("SCOPE_PORTABLE_WHEELS", ROOT / "build" / "portable"))
LIB = "scope_cpp/_vendor/llama_cpp/lib"
WEIGHTS = ("f32", "f16", "q8_0")

# Largest difference of logits, as a share of the largest one: sums have another order, and where
# weights have 8 bits, activations are rounded to 8 bits too. Seen on twelve variants: 3e-4, 8e-4
# and 1.2e-2; a different text has differences of 1.
TOLERANCES = {"f32": 1e-3, "f16": 2e-3, "q8_0": 3e-2}


@pytest.fixture(scope="module")
def wheel() -> Path:
    found = sorted(WHEELS.glob("scope_cpp-*.whl"))
    if not found or sys.platform != "linux":
        pytest.skip(f"no wheel in {WHEELS}: scripts/build_wheel.py makes one")
    return found[-1]


@pytest.fixture(scope="module")
def unpacked(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


def score(library: Path) -> int:
    """What a variant says of this CPU, in a process that ends with the question."""
    code = "import ctypes, sys; print(ctypes.CDLL(sys.argv[1]).ggml_backend_score())"
    command = [sys.executable, "-c", code, str(library)]
    return int(subprocess.run(command, check=True, text=True, capture_output=True).stdout)


@pytest.fixture(scope="module")
def scores(unpacked: Path) -> dict[str, int]:
    """Name of each variant's file, and its score."""
    return {path.name: score(path) for path in sorted((unpacked / LIB).glob("libggml-cpu-*"))}


@pytest.fixture(scope="module")
def models(tiny: Tiny) -> list[str]:
    return [str(tiny(weight_type=weights)) for weights in WEIGHTS]


def call(unpacked: Path, out: Path, models: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tests.build.variant_child", str(out), *models],
        cwd=ROOT,
        env={**os.environ, "LLAMA_CPP_LIB_PATH": str(unpacked / LIB), "OMP_WAIT_POLICY": "passive"},
        text=True,
        capture_output=True,
    )


def run(unpacked: Path, out: Path, models: list[str]) -> dict[str, Any]:
    result = call(unpacked, out, models)
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    with np.load(out) as arrays:
        return {
            **json.loads(result.stdout),
            "logits": dict(zip(WEIGHTS, arrays.values(), strict=True)),
        }


def only(unpacked: Path, variants: set[str], to: Path) -> Path:
    """A copy of the unpacked wheel that has no other variants than these."""

    def others(_: str, names: list[str]) -> list[str]:
        return [name for name in names if "libggml-cpu-" in name and name not in variants]

    shutil.copytree(unpacked, to, ignore=others, copy_function=os.link)
    return to


@pytest.fixture(scope="module")
def baseline(
    unpacked: Path, scores: dict[str, int], models: list[str], tmp_path_factory: Any
) -> dict[str, Any]:
    """What the variant makes of the models that every CPU of this kind can run."""
    folder = tmp_path_factory.mktemp("baseline")
    lowest = min((name for name in scores if scores[name] > 0), key=scores.__getitem__)
    return run(only(unpacked, {lowest}, folder / "wheel"), folder / "out.npz", models)


def test_the_wheel_runs_on_old_systems_and_any_cpu(wheel, scores):
    assert re.search(r"-py3-none-manylinux_2_\d+_(x86_64|aarch64)\.whl$", wheel.name)
    assert {"libggml-cpu-x64.so", "libggml-cpu-haswell.so"} <= set(
        scores
    ) or "x86" not in wheel.name
    assert wheel.stat().st_size <= 25 << 20


def test_every_library_finds_what_it_is_linked_with_in_the_wheel_or_the_c_library(unpacked):
    of_the_system = r"lib(c|m|dl|pthread|rt|stdc\+\+|gcc_s)\.so|ld-linux|linux-vdso"
    for library in unpacked.rglob("*.so*"):
        listed = subprocess.run(["ldd", library], check=True, text=True, capture_output=True).stdout
        for line in listed.splitlines():
            name = line.split()[0]
            here = str(unpacked) in line
            assert here or re.search(of_the_system, name), f"{library.name}: {line}"


def test_the_variant_with_the_highest_score_is_taken_and_no_other(
    unpacked, scores, models, tmp_path
):
    (best,) = (name for name in scores if scores[name] == max(scores.values()))
    assert run(unpacked, tmp_path / "out.npz", models)["loaded"] == [best]


def test_every_variant_that_this_cpu_can_run_says_the_same(
    unpacked, scores, models, baseline, tmp_path
):
    can_run = {name for name in scores if scores[name] > 0}
    for name in sorted(can_run - set(baseline["loaded"])):
        folder = only(unpacked, {name}, tmp_path / name)
        result = run(folder, tmp_path / "out.npz", models)
        assert result["loaded"] == [name]
        assert result["text"] == baseline["text"], name
        for weights, tolerance in TOLERANCES.items():
            expected = baseline["logits"][weights]
            error = np.abs(result["logits"][weights] - expected).max() / np.abs(expected).max()
            assert error <= tolerance, (name, weights)


def test_a_variant_that_this_cpu_can_not_run_is_never_taken(unpacked, scores, models, tmp_path):
    can_not = {name for name in scores if scores[name] == 0}
    if not can_not:
        pytest.skip("this CPU can run all of them")
    result = call(only(unpacked, can_not, tmp_path / "wheel"), tmp_path / "out.npz", models)
    assert result.returncode == 1
    assert "libllama can't be loaded: no library libggml-cpu-* in " in result.stderr
    assert "runs on this CPU; reinstall scope-cpp" in result.stderr
