"""Damaged model files, made by what scripts/fuzz_files.py makes its own with."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "scripts"))

from fuzzing.bases import bases  # noqa: E402
from fuzzing.gguf import (  # noqa: E402, F401
    ARRAY,
    BOOL,
    F32,
    STRING,
    U32,
    Array,
    Gguf,
    Tensor,
    encode,
    parse,
)

Change = Callable[[Gguf], object]


@cache
def _bases() -> dict[str, bytes]:
    with tempfile.TemporaryDirectory() as folder:
        return {name: encode(file) for name, file in bases(Path(folder)).items()}


def good(base: str) -> Gguf:
    """A good file, to be changed at will."""
    return parse(_bases()[base])


def write_damaged(path: Path, change: Change, base: str = "llama") -> Path:
    """Write a changed copy of a good file."""
    file = good(base)
    change(file)
    path.write_bytes(encode(file))
    return path


def tokens(change: Callable[[list[bytes]], list[bytes]]) -> Change:
    def apply(file: Gguf) -> None:
        pair = file.find("tokenizer.ggml.tokens")
        assert pair is not None
        pair.value = Array(STRING, change(pair.value.items))

    return apply


def setting(key: str, kind: int, value: object) -> Change:
    return lambda file: file.set(key, kind, value)


EPSILON = "llama.attention.layer_norm_rms_epsilon"
LOADED, BUILT, COMPUTED = "it is loaded", "its graphs are built", "its first tokens are computed"

# what is wrong -> what llama.cpp was doing when it gave up, and at what
FATAL: dict[str, tuple[Change, str, str]] = {
    "no layers": (setting("llama.block_count", U32, 0), LOADED, "n_layer_all > 0"),
    "2^31 layers": (setting("llama.block_count", U32, 2**31), LOADED, "LLAMA_MAX_LAYERS"),
    "experts that are not used": (setting("llama.expert_count", U32, 8), LOADED, "n_expert_used"),
    "too many experts": (setting("llama.expert_count", U32, 2**31), LOADED, "LLAMA_MAX_EXPERTS"),
    "a layer without KV heads": (
        setting("llama.attention.head_count_kv", ARRAY, Array(U32, [2, 0])),
        BUILT,
        "GGML_ASSERT",
    ),
    "unknown rope scaling": (
        setting("llama.rope.scaling.type", STRING, b"no such"),
        LOADED,
        "rope_scaling_type_train",
    ),
    "negative epsilon": (setting(EPSILON, F32, -1.0), COMPUTED, "eps >= 0"),
    "epsilon that is no number": (setting(EPSILON, F32, float("nan")), COMPUTED, "eps >= 0"),
    "the same tokens": (tokens(lambda old: [b"same"] * len(old)), LOADED, "token_to_id.size()"),
    "two tokens alike": (tokens(lambda old: [*old[:-1], old[-2]]), LOADED, "token_to_id.size()"),
    "tokens that are not UTF-8": (
        tokens(lambda old: [b"\xff\xfe"] * len(old)),
        LOADED,
        "token_to_id.size()",
    ),
}
