"""GGUF files that are no models, although they come beside models and look like them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_OF_TYPE = {  # general.type
    "adapter": "lora",
    "mmproj": "projector",
    "imatrix": "imatrix",
}
_OF_ARCHITECTURE = {"clip": "projector", "controlvector": "vector"}  # general.architecture

_WHAT = {
    "lora": "a LoRA adapter: give the model{base} instead, with the adapter merged into it "
    "(llama.cpp's llama-export-lora does that)",
    "projector": "a projector (mmproj), which turns images or sound into input of a model: "
    "give the model itself",
    "imatrix": "an importance matrix, which helps to quantize a model: give the model itself",
    "vector": "a control vector, which changes how a model writes: give the model itself",
}


def not_a_model(metadata: Mapping[str, Any]) -> str | None:
    """Return what a file is, and what to give instead; ``None`` if it may be a model."""
    kind = _OF_TYPE.get(str(metadata.get("general.type")))
    kind = kind or _OF_ARCHITECTURE.get(str(metadata.get("general.architecture")))
    if kind is None and any(key in metadata for key in ("imatrix.chunk_count", "adapter.type")):
        kind = "imatrix" if "imatrix.chunk_count" in metadata else "lora"
    if kind is None:
        return None
    name = metadata.get("general.base_model.0.name")
    return _WHAT[kind].format(base=f" it belongs to ({name})" if name else " it belongs to")
