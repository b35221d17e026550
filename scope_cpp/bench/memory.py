"""Main memory of this process, as the system counts it."""

from __future__ import annotations

import re
import sys
from pathlib import Path

_STATUS = Path("/proc/self/status")


def peak_rss() -> int | None:
    """Return the most bytes that were resident at once, mapped files included; None if unknown."""
    if sys.platform == "linux":
        return _status("VmHWM")
    try:
        import resource
    except ImportError:  # not on this platform
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def anonymous_rss() -> int | None:
    """Return the bytes resident now that map no file, so without mapped weights; Linux only."""
    return _status("RssAnon") if sys.platform == "linux" else None


def _status(name: str) -> int | None:
    found = re.search(rf"^{name}:\s+(\d+) kB", _STATUS.read_text(), re.MULTILINE)
    return int(found[1]) * 1024 if found else None
