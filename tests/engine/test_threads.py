from __future__ import annotations

import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from scope_cpp.engine import threads


def test_one_for_each_usable_core(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for cpu, siblings in enumerate(["0,2", "1,3", "0,2", "1,3"]):
        (tmp_path / str(cpu)).write_text(siblings + "\n")
    monkeypatch.setattr(threads, "_TOPOLOGY", str(tmp_path) + "/{}")
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 2, 3}, raising=False)
    assert threads.default_threads() == 2
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {1, 3}, raising=False)
    assert threads.default_threads() == 1


def test_without_topology_each_cpu_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "_TOPOLOGY", "/nowhere/{}")
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {4, 5, 9}, raising=False)
    assert threads.default_threads() == 3


@pytest.mark.skipif(sys.platform != "linux", reason="threads have no priority of their own here")
def test_a_thread_that_gives_way_does_so_alone() -> None:
    before = os.getpriority(os.PRIO_PROCESS, 0)
    with ThreadPoolExecutor(1, initializer=threads.give_way) as pool:
        assert pool.submit(os.getpriority, os.PRIO_PROCESS, 0).result() == max(before, 10)
    assert os.getpriority(os.PRIO_PROCESS, 0) == before
