"""The reference model that comes with the package."""

from __future__ import annotations

from pathlib import Path

from scope_cpp.errors import ScopeError

MODEL = Path(__file__).with_name("model.gguf")


def model_label(path: Path) -> str:
    """What reports and figures call a model: its file's name; the shipped one by what it is."""
    return "reference model" if path == MODEL else path.name


def model_path() -> Path:
    """Path of the shipped GGUF; see docs/reference_model.md for what it is.

    Raises
    ------
    ScopeError
        If the installation lacks it.
    """
    if not MODEL.is_file():
        raise ScopeError(f"the reference model is missing ({MODEL}): install scope-cpp again")
    return MODEL
