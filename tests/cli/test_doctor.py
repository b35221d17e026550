from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from scope_cpp.engine import doctor, selftest
from scope_cpp.errors import ScopeError
from scope_cpp.native import kv_evict

from .conftest import Run

ROOT = Path(__file__).resolve().parents[2]
HEADER = ROOT / "patches" / "llama-kv-evict.h"


def test_a_working_installation(run: Run) -> None:
    result = run("doctor", "--json")
    assert result.exit_code == 0
    assert result.stderr == ""
    got = json.loads(result.stdout)
    assert [check["ok"] for check in got["checks"]] == [True] * 4
    assert {device["kind"] for device in got["devices"]} >= {"CPU"}
    assert got["bindings"] == "0.3.36"
    assert f"#define LLAMA_KV_EVICT_ABI {got['abi']}\n" in HEADER.read_text()
    assert "CPU" in got["cpu"]
    assert Path(got["library"]).is_dir()


def test_the_commit_is_the_one_that_is_built(run: Run) -> None:
    built = re.search(r'LLAMA_BUILD_COMMIT "(\w+)"', (ROOT / "CMakeLists.txt").read_text())
    assert built is not None
    assert json.loads(run("doctor", "--json").stdout)["commit"] == built[1]


def test_the_self_test_notices_rows_that_were_not_moved(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    apply = kv_evict.apply

    def without_moves(ctx: Any, seq: int, src: Any, dst: Any, rm: Any) -> None:
        apply(ctx, seq, src, src, rm)

    monkeypatch.setattr(kv_evict, "apply", without_moves)
    result = run("doctor")
    assert result.exit_code == 1
    lines = result.stderr.splitlines()
    assert [line.split(" logits")[0] for line in lines] == ["error: f16", "error: q8_0"]
    assert result.stdout.count("FAILED") == 2


def test_the_self_test_notices_a_cache_that_is_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selftest.kv_evict, "n_used", lambda ptr: selftest.CAPACITY + 1)
    assert [check.ok for check in selftest.run()] == [True, False, True, False]


@pytest.mark.parametrize("error", [ScopeError("out of memory"), ValueError("unequal heads")])
def test_a_check_that_cannot_be_run_has_failed(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(*args: object) -> None:
        raise error

    monkeypatch.setattr(selftest, "trace", fail)
    assert [(check.ok, check.detail) for check in selftest.run()] == [(False, str(error))] * 2


def test_a_library_that_does_not_load(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(verbose: bool) -> None:
        raise ScopeError("libllama can't be loaded: no such file")

    monkeypatch.setattr(doctor, "native_facts", fail)
    result = run("doctor")
    assert result.exit_code == 1
    assert result.stderr == "error: library: libllama can't be loaded: no such file\n"
    assert "does not load" in result.stdout
