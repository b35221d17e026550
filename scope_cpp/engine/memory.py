"""Free memory of the device that holds the KV cache."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

_CGROUP = Path("/sys/fs/cgroup")


def free_memory(*, gpu: bool = False) -> int:
    """Return the bytes that can be allocated now.

    Parameters
    ----------
    gpu : bool
        Ask for the memory of the GPUs, summed, which hold the cache when layers are offloaded;
        without a discrete GPU it is that of the host.

    Raises
    ------
    OSError
        When the system does not say.
    """
    if gpu:
        free = gpu_free_memory()
        if free is not None:
            return free
    return host_free_memory()


def gpu_free_memory() -> int | None:
    """Return the free bytes of all discrete GPUs that ggml sees; None without one.

    Integrated ones share the memory of the host.
    """
    from scope_cpp.engine.devices import devices

    gpus = [device.free_bytes for device in devices() if device.kind == "GPU"]
    return sum(gpus) if gpus else None


def host_free_memory() -> int:
    """Return the bytes of main memory that can be had without swapping.

    On Linux: ``MemAvailable`` of /proc/meminfo, or what a control group leaves if that is less.
    (ggml's own figure for the CPU is the *total* memory.)
    """
    if sys.platform == "linux":
        meminfo = Path("/proc/meminfo").read_text()
        available = re.search(r"^MemAvailable:\s+(\d+) kB", meminfo, re.MULTILINE)
        if available is not None:
            host = int(available[1]) * 1024
            limit = _cgroup_free(_CGROUP)
            return host if limit is None else min(host, limit)
    if sys.platform == "darwin":
        return _macos_free()
    return _posix_free()


def _cgroup_free(group: Path) -> int | None:
    """Bytes that a version 2 control group leaves, its page cache counted as free."""
    try:
        limit = (group / "memory.max").read_text().strip()
        used = int((group / "memory.current").read_text())
        stat = (group / "memory.stat").read_text()
    except OSError:
        return None
    if limit == "max":
        return None
    cached = re.search(r"^inactive_file (\d+)$", stat, re.MULTILINE)
    return max(0, int(limit) - used + (int(cached[1]) if cached else 0))


def _macos_free() -> int:
    """Free, inactive and speculative pages, as ``vm_stat`` counts them."""
    report = subprocess.run(["vm_stat"], capture_output=True, text=True, check=True).stdout
    return parse_vm_stat(report)


def parse_vm_stat(report: str) -> int:
    """Return the bytes that `report`, the output of ``vm_stat``, counts as available."""
    page = re.search(r"page size of (\d+) bytes", report)
    pages = re.findall(r"^Pages (?:free|inactive|speculative):\s+(\d+)\.", report, re.MULTILINE)
    if page is None or not pages:
        raise OSError("vm_stat printed no page counts")
    return int(page[1]) * sum(map(int, pages))


def _posix_free() -> int:
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
