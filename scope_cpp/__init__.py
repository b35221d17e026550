"""Long outputs of GGUF models within a fixed KV-cache budget.

>>> from scope_cpp import Model, Settings, generate
>>> with Model.load("model.gguf") as model:
...     text, last = generate(model, "Once upon a time", n_predict=8192,
...                           settings=Settings(budget=1024))
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from scope_cpp.engine.generate import Generation, Response, Stats, generate
    from scope_cpp.engine.model import Model
    from scope_cpp.engine.sampling import SamplingParams
    from scope_cpp.engine.settings import Settings
    from scope_cpp.errors import ScopeError, UsageError

__version__ = "0.1.0"

__all__ = [
    "Generation",
    "Model",
    "Response",
    "SamplingParams",
    "ScopeError",
    "Settings",
    "Stats",
    "UsageError",
    "generate",
]

_HOME = {
    "Generation": "engine.generate",
    "Model": "engine.model",
    "Response": "engine.generate",
    "SamplingParams": "engine.sampling",
    "ScopeError": "errors",
    "Settings": "engine.settings",
    "Stats": "engine.generate",
    "UsageError": "errors",
    "generate": "engine.generate",
}


def __getattr__(name: str) -> Any:
    """Import on first use: ``import scope_cpp`` alone loads no native library."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
