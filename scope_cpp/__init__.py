"""Long outputs of GGUF models within a KV cache of a fixed size, on llama.cpp.

>>> from scope_cpp import Model, Settings, stream_generate
>>> with Model.load("model.gguf") as model:
...     messages = [{"role": "user", "content": "Write a long story."}]
...     settings = Settings(budget=1024)
...     for response in stream_generate(model, messages, n_predict=8192, settings=settings):
...         print(response, end="", flush=True)

`Model` loads a file. `generate` returns a text, `stream_generate` (or `Generation`) gives it as it
is written, `chat` (or `Conversation`) remembers what was said. `Settings` has the budget and the
policy, `SamplingParams` how tokens are drawn. Errors are `ScopeError`, or `UsageError` where the
request is wrong. docs/python.md shows each.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from scope_cpp.engine.answer import Answer
    from scope_cpp.engine.conversation import Conversation, chat
    from scope_cpp.engine.generate import Generation, Response, Stats, generate, stream_generate
    from scope_cpp.engine.model import Model
    from scope_cpp.engine.sampling_params import SamplingParams
    from scope_cpp.engine.settings import Settings
    from scope_cpp.errors import ScopeError, UsageError

__version__ = "0.1.0"

__all__ = [
    "Answer",
    "Conversation",
    "Generation",
    "Model",
    "Response",
    "SamplingParams",
    "ScopeError",
    "Settings",
    "Stats",
    "UsageError",
    "chat",
    "generate",
    "stream_generate",
]

_HOME = {
    "Answer": "engine.answer",
    "Conversation": "engine.conversation",
    "Generation": "engine.generate",
    "Model": "engine.model",
    "Response": "engine.generate",
    "SamplingParams": "engine.sampling_params",
    "ScopeError": "errors",
    "Settings": "engine.settings",
    "Stats": "engine.generate",
    "UsageError": "errors",
    "chat": "engine.conversation",
    "generate": "engine.generate",
    "stream_generate": "engine.generate",
}


def __getattr__(name: str) -> Any:
    """Import on first use: ``import scope_cpp`` alone loads no native library."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    """Name what there is, before it is imported, for those who press Tab."""
    return sorted({*globals(), *__all__})
