"""How many CPU threads to compute with: one for each core, as llama.cpp's own tools do."""

from __future__ import annotations

import os
from pathlib import Path

_TOPOLOGY = "/sys/devices/system/cpu/cpu{}/topology/thread_siblings_list"


def default_threads() -> int:
    """Return the number of physical cores that this process may run on.

    The library's own default is 4, whatever the machine: too many on a small one, where threads
    then wait for each other, too few on a large one.
    """
    try:
        usable = os.sched_getaffinity(0)
    except AttributeError:  # not on this platform
        return os.cpu_count() or 1
    return len({_siblings(cpu) for cpu in usable})


def _siblings(cpu: int) -> str:
    """Return what the hardware threads of one core have in common; the CPU itself if unknown."""
    try:
        return Path(_TOPOLOGY.format(cpu)).read_text().strip()
    except OSError:
        return str(cpu)
