"""GGUF files that are no models, although they come beside models and look like them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_OF_TYPE = {  # general.type
    "adapter": "lora",
    "mmproj": "projector",
    "imatrix": "imatrix",
}
_OF_ARCHITECTURE = {  # general.architecture
    "clip": "projector",
    "controlvector": "vector",
    "t5": "encoder-decoder",
    "t5encoder": "encoder",
    "llama-embed": "encoder",
    "dflash": "draft",
    "eagle3": "draft",
    "gemma4-assistant": "draft",
    "pockettts": "speech",
    "qwen3tts": "speech",
}

_WHAT = {
    "lora": "a LoRA adapter: give the model{base} instead, with the adapter merged into it "
    "(llama.cpp's llama-export-lora does that)",
    "projector": "a projector (mmproj), which turns images or sound into input of a model: "
    "give the model itself",
    "imatrix": "an importance matrix, which helps to quantize a model: give the model itself",
    "encoder-decoder": "an encoder-decoder, which first reads a text with another part than the "
    "one that writes: give a model of decoder layers only",
    "encoder": "an encoder, which makes a vector of a text: it can't generate",
    "draft": "a draft, which guesses tokens for another model and reads its cells: give that model",
    "speech": "a model that writes sounds, not text: give a model of text",
    "vector": "a control vector, which changes how a model writes: give the model itself",
}


DRAFT = _WHAT["draft"]


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
