"""Why a model did not load, from llama.cpp's log."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


def load_failure(path: Path, errors: Sequence[str]) -> str:
    """Say in one line why a model did not load, from the error lines of llama.cpp's log."""
    causes = [line.rpartition("error loading model: ")[2] for line in errors]
    for cause in causes:
        reason = _known_reason(cause)
        if reason is not None:
            return f"{path}: {reason}"
    told = [c for c in causes if not c.endswith("failed to load model")]
    return f"{path} cannot be loaded: {told[-1] if told else 'llama.cpp gives no reason'}"


def _known_reason(cause: str) -> str | None:
    if "unknown model architecture" in cause:
        name = cause.rpartition(": ")[2]
        return f"this build of llama.cpp does not support the architecture {name}"
    if "not within the file bounds" in cause:
        return "the file is truncated, some of its weights are missing; download it again"
    if any(sign in cause for sign in ("allocate", "bad_alloc", "out of memory")):
        return f"not enough memory for the weights ({cause}); offload fewer layers (-ngl)"
    return None
