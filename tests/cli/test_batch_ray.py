"""``scope batch --ray``: how the flag is read, and clusters that are not there."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.batch.drive import skip_without_ray

from .conftest import Run, assert_refused

INSTALL = "pip install 'scope-cpp[ray]'"


@pytest.fixture
def files(tmp_path: Path) -> tuple[object, ...]:
    rows = tmp_path / "rows.txt"
    rows.write_text("Hello\n")
    return "-i", rows, "-o", tmp_path / "out.jsonl"


@pytest.mark.parametrize(
    ("flags", "phrase"),
    [
        (["--ray", "MODEL"], INSTALL),
        (["MODEL", "--ray"], INSTALL),
        (["--ray", "auto", "MODEL"], INSTALL),
        (["--ray", "localhost:6379", "MODEL"], INSTALL),
        (["--ray=gpu-cluster", "MODEL"], INSTALL),
        (["--ray", "gpu-cluster", "MODEL"], "scope batch takes no argument"),
        (["MODEL", "--ray-workers", "2"], "give --ray too"),
    ],
)
def test_the_address_can_be_left_out(
    run: Run,
    tiny: Path,
    files: tuple[object, ...],
    monkeypatch: pytest.MonkeyPatch,
    flags: list[str],
    phrase: str,
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    given = [tiny if flag == "MODEL" else flag for flag in flags]
    assert_refused(run("batch", *given, *files), 2, phrase)


@pytest.mark.parametrize(
    ("address", "exit_code", "phrase"),
    [
        ("ray://localhost:10001", 2, "Ray Client is not supported"),
        ("localhost:1", 1, "no Ray cluster answers at localhost:1"),
        ("localhost:99999", 1, "no Ray cluster answers at localhost:99999"),
    ],
)
def test_a_cluster_that_is_not_there_is_told_at_once(
    run: Run, tiny: Path, files: tuple[object, ...], address: str, exit_code: int, phrase: str
) -> None:
    skip_without_ray()
    assert_refused(run("batch", tiny, *files, "--ray", address), exit_code, phrase)
