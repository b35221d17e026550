"""Why a model did not load, from llama.cpp's log."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

# functions that pass an error on: "llama_model_load: error loading model: check_tensor_dims: …"
_CALLERS = re.compile(r"^(?:\w+: )*(?:error loading model(?: \w+)?: )*(?:\w+: )*")
# said of what was said before
_VAGUE = re.compile(r"failed to (?:load|read|seek)\b")

_REMEDY = "it is damaged, or made for another llama.cpp: download it again, or convert it anew"


def load_failure(path: Path, errors: Sequence[str]) -> str:
    """Say in one line why a model did not load, from the error lines of llama.cpp's log."""
    causes = [_CALLERS.sub("", line) for line in errors if line.strip()]
    for cause in causes:
        reason = _known_reason(cause)
        if reason is not None:
            return f"{path}: {reason}"
    told = [cause for cause in causes if not _VAGUE.match(cause)] or causes
    return (
        f"{path} cannot be loaded ({told[0] if told else 'llama.cpp gives no reason'}); {_REMEDY}"
    )


def _known_reason(cause: str) -> str | None:
    if "unknown model architecture" in cause:
        name = cause.rpartition(": ")[2].strip("'")  # of two lines only the first is there
        return (
            f"this build of llama.cpp does not support the architecture '{name}': give another "
            "model, or update scope-cpp"
        )
    if "not within the file bounds" in cause:
        return "the file is truncated, some of its weights are missing; download it again"
    if any(sign in cause for sign in ("allocate", "bad_alloc", "out of memory")):
        return f"not enough memory for the weights ({cause}); offload fewer layers (-ngl)"
    if "failed to open" in cause:
        return f"{cause}: all parts of a model must lie side by side"
    return None
