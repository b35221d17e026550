"""CPU threads: how many compute (one for each core, as llama.cpp does), and which give way."""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path

# priority of threads that `give_way`: a tenth of the time of others, where all cores are busy
_PATIENT = 10

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


def give_way() -> None:
    """Let the calling thread compute when others of the machine do not, as far as that is known.

    Linux alone gives a thread a priority of its own.
    """
    if sys.platform == "linux":
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, 0, max(_PATIENT, os.getpriority(os.PRIO_PROCESS, 0)))
