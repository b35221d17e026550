from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from scope_cpp.engine import devices, memory
from scope_cpp.engine.devices import Device

VM_STAT = """Mach Virtual Memory Statistics: (page size of 16384 bytes)
Pages free:                               10000.
Pages active:                            400000.
Pages inactive:                           20000.
Pages speculative:                          500.
Pages wired down:                        100000.
"""


def test_free_memory_is_part_of_what_there_is() -> None:
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert 0 < memory.host_free_memory() <= total


def test_vm_stat_counts_free_inactive_and_speculative_pages() -> None:
    assert memory.parse_vm_stat(VM_STAT) == 30500 * 16384


def test_vm_stat_of_another_form_is_an_error() -> None:
    with pytest.raises(OSError, match="vm_stat"):
        memory.parse_vm_stat("nothing")


def write_group(folder: Path, limit: str) -> None:
    (folder / "memory.max").write_text(f"{limit}\n")
    (folder / "memory.current").write_text("700\n")
    (folder / "memory.stat").write_text("anon 400\nfile 300\ninactive_file 200\n")


def test_a_control_group_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_group(tmp_path, "1000")
    monkeypatch.setattr(memory, "_CGROUP", tmp_path)
    monkeypatch.setattr(memory.sys, "platform", "linux")
    assert memory.host_free_memory() == 500


def test_a_control_group_without_limit_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_group(tmp_path, "max")
    assert memory._cgroup_free(tmp_path) is None
    assert memory._cgroup_free(tmp_path / "no group") is None


def fake_devices(*kinds: tuple[str, int]) -> Any:
    """Devices of (kind, free bytes)."""
    return lambda: [Device("", "", kind, 2 * free, free) for kind, free in kinds]


def test_gpus_are_summed_and_the_cpu_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "devices", fake_devices(("GPU", 10), ("CPU", 99), ("GPU", 20)))
    assert memory.free_memory(gpu=True) == 30


def test_without_a_gpu_the_host_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "devices", fake_devices(("CPU", 99), ("integrated GPU", 50)))
    monkeypatch.setattr(memory, "host_free_memory", lambda: 7)
    assert memory.free_memory(gpu=True) == 7
    assert memory.free_memory() == 7


def test_ggml_is_reached_through_libllama() -> None:
    cpu = [device for device in devices.devices() if device.kind == "CPU"]
    assert cpu
    assert 0 < cpu[0].free_bytes <= cpu[0].total_bytes
