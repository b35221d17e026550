"""Small GGUF files that scope-cpp must refuse, and why.

The first group loads and decodes in stock llama.cpp, but its memory is not one that eviction by
KV head is right for. The second group is no usable model at all.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from gguf import GGUFWriter

from scope_cpp.reference.tiny_model import add_vocabulary, write_file, write_tiny_model

Field = bool | int | float | list[int]
Shapes = dict[str, tuple[int, ...]]
# vocabulary size -> fields (without the architecture prefix) and tensor shapes, NumPy order
Description = Callable[[int], tuple[dict[str, Field], Shapes]]

_WIDTH, _HEADS, _HEAD, _FF, _CONTEXT, _LAYERS = 64, 2, 32, 64, 256, 2
_SPAN = _HEADS * _HEAD

LOADABLE = {
    "deepseek2": "MLA",
    "mamba": "recurrent",
    "mpt": "ALiBi",
    "bloom": "ALiBi",
    "bert": "encoder",
}

UNLOADABLE = {
    "vocabulary-only": "vocabulary",
    "truncated": "truncated",
    "truncated-header": "truncated",
    "unknown": "architecture",
    "not-a-gguf": "not a GGUF",
}

# name -> word that the refusal must contain
REASONS = {**LOADABLE, **UNLOADABLE}


def write_refused(name: str, path: str | Path) -> Path:
    """Write the file `name`, a key of ``REASONS``, to `path` and return `path`."""
    path = Path(path)
    if name in LOADABLE:
        _write_random(name, path)
    else:
        _UNLOADABLE_WRITERS[name](path)
    return path


def _write_random(arch: str, path: Path) -> None:
    writer = GGUFWriter(path, arch)
    n_vocab = add_vocabulary(writer)
    fields, shapes = _DESCRIPTIONS[arch](n_vocab)
    _add_fields(writer, arch, fields)
    rng = np.random.default_rng(0)
    for name, shape in shapes.items():
        weights = rng.standard_normal(shape, dtype=np.float32) / np.sqrt(np.float32(shape[-1]))
        # norms near one; and a state space model decays only if A is negative
        if "norm" in name:
            weights = 1 + weights / 4
        writer.add_tensor(name, -np.abs(weights) if name.endswith("ssm_a") else weights)
    write_file(writer)


def _add_fields(writer: GGUFWriter, arch: str, fields: dict[str, Field]) -> None:
    for key, value in (_COMMON | fields).items():
        _add_field(writer, key if key.startswith("tokenizer.") else f"{arch}.{key}", value)


def _add_field(writer: GGUFWriter, key: str, value: Field) -> None:
    match value:
        case bool():
            writer.add_bool(key, value)
        case int():
            writer.add_uint32(key, value)
        case float():
            writer.add_float32(key, value)
        case list():
            writer.add_array(key, value)


_COMMON: dict[str, Field] = {
    "context_length": _CONTEXT,
    "block_count": _LAYERS,
    "embedding_length": _WIDTH,
    "feed_forward_length": _FF,
    "attention.head_count": _HEADS,
    "attention.head_count_kv": _HEADS,
    "attention.layer_norm_rms_epsilon": 1e-5,
    "attention.layer_norm_epsilon": 1e-5,
}

_SEPARATE_QKV: Shapes = {
    "attn_norm.weight": (_WIDTH,),
    "attn_q.weight": (_SPAN, _WIDTH),
    "attn_k.weight": (_SPAN, _WIDTH),
    "attn_v.weight": (_SPAN, _WIDTH),
    "attn_output.weight": (_WIDTH, _SPAN),
}

_GATED: Shapes = {
    "ffn_norm.weight": (_WIDTH,),
    "ffn_gate.weight": (_FF, _WIDTH),
    "ffn_up.weight": (_FF, _WIDTH),
    "ffn_down.weight": (_WIDTH, _FF),
}

_UNGATED: Shapes = {"ffn_up.weight": (_FF, _WIDTH), "ffn_down.weight": (_WIDTH, _FF)}


def _model(n_vocab: int, *layers: Mapping[str, tuple[int, ...]], **top: tuple[int, ...]) -> Shapes:
    """Shapes of a model with these layers (one given: repeated) and further `top` tensors."""
    repeated = layers * _LAYERS if len(layers) == 1 else layers
    blocks = {
        f"blk.{i}.{name}": shape
        for i, block in enumerate(repeated)
        for name, shape in block.items()
    }
    extra = {name.replace("__", "."): shape for name, shape in top.items()}
    return {"token_embd.weight": (n_vocab, _WIDTH), **blocks, **extra}


def _deepseek2(n_vocab: int) -> tuple[dict[str, Field], Shapes]:
    q_rank, kv_rank, rope, plain, value = 32, 32, 32, 32, 32
    layer: Shapes = _GATED | {
        "attn_norm.weight": (_WIDTH,),
        "attn_q_a.weight": (q_rank, _WIDTH),
        "attn_q_a_norm.weight": (q_rank,),
        "attn_q_b.weight": (_HEADS * (plain + rope), q_rank),
        "attn_kv_a_mqa.weight": (kv_rank + rope, _WIDTH),
        "attn_kv_a_norm.weight": (kv_rank,),
        "attn_k_b.weight": (_HEADS, kv_rank, plain),
        "attn_v_b.weight": (_HEADS, value, kv_rank),
        "attn_output.weight": (_WIDTH, _HEADS * value),
    }
    fields: dict[str, Field] = {
        "leading_dense_block_count": _LAYERS,
        "attention.head_count_kv": 1,
        "attention.q_lora_rank": q_rank,
        "attention.kv_lora_rank": kv_rank,
        "attention.key_length": kv_rank + rope,
        "attention.value_length": kv_rank,
        "attention.key_length_mla": plain + rope,
        "attention.value_length_mla": value,
        "rope.dimension_count": rope,
        "expert_count": 2,
        "expert_used_count": 1,
        "expert_shared_count": 1,
        "expert_feed_forward_length": _FF,
    }
    return fields, _model(n_vocab, layer, output_norm__weight=(_WIDTH,))


def _mamba(n_vocab: int) -> tuple[dict[str, Field], Shapes]:
    inner, state, kernel, rank = 2 * _WIDTH, 16, 4, 8
    layer: Shapes = {
        "attn_norm.weight": (_WIDTH,),
        "ssm_in.weight": (2 * inner, _WIDTH),
        "ssm_conv1d.weight": (inner, kernel),
        "ssm_conv1d.bias": (inner,),
        "ssm_x.weight": (rank + 2 * state, inner),
        "ssm_dt.weight": (inner, rank),
        "ssm_dt.bias": (inner,),
        "ssm_a": (inner, state),
        "ssm_d": (inner,),
        "ssm_out.weight": (_WIDTH, inner),
    }
    fields: dict[str, Field] = {
        "ssm.conv_kernel": kernel,
        "ssm.inner_size": inner,
        "ssm.state_size": state,
        "ssm.time_step_rank": rank,
        "attention.head_count": 0,
        "attention.head_count_kv": 0,
        "feed_forward_length": 0,
    }
    return fields, _model(n_vocab, layer, output_norm__weight=(_WIDTH,))


def _fused_qkv() -> Shapes:
    return _UNGATED | {
        "attn_norm.weight": (_WIDTH,),
        "attn_qkv.weight": (3 * _WIDTH, _WIDTH),
        "attn_output.weight": (_WIDTH, _WIDTH),
        "ffn_norm.weight": (_WIDTH,),
    }


def _with_biases(layer: Shapes) -> Shapes:
    """Add a bias to every weight of `layer`: its size is the weight's number of rows."""
    return layer | {name.replace(".weight", ".bias"): shape[:1] for name, shape in layer.items()}


def _mpt(n_vocab: int) -> tuple[dict[str, Field], Shapes]:
    shapes = _model(n_vocab, _fused_qkv(), output_norm__weight=(_WIDTH,))
    return {"attention.max_alibi_bias": 8.0}, shapes


def _bloom(n_vocab: int) -> tuple[dict[str, Field], Shapes]:
    top = _with_biases({"token_embd_norm.weight": (_WIDTH,), "output_norm.weight": (_WIDTH,)})
    return {}, _model(n_vocab, _with_biases(_fused_qkv())) | top


def _bert(n_vocab: int) -> tuple[dict[str, Field], Shapes]:
    norms: Shapes = {"attn_output_norm.weight": (_WIDTH,), "layer_output_norm.weight": (_WIDTH,)}
    attention = {k: v for k, v in _SEPARATE_QKV.items() if "norm" not in k}
    shapes = _model(n_vocab, attention | _UNGATED | _with_biases(norms))
    shapes |= _with_biases({"token_embd_norm.weight": (_WIDTH,)})
    shapes |= {"token_types.weight": (2, _WIDTH), "position_embd.weight": (_CONTEXT, _WIDTH)}
    return {"attention.causal": False, "tokenizer.ggml.token_type_count": 2}, shapes


_DESCRIPTIONS: dict[str, Description] = {
    "deepseek2": _deepseek2,
    "mamba": _mamba,
    "mpt": _mpt,
    "bloom": _bloom,
    "bert": _bert,
}


def _vocabulary_only(path: Path) -> None:
    writer = GGUFWriter(path, "llama")
    add_vocabulary(writer)
    _add_fields(writer, "llama", {})
    write_file(writer)


def _truncated(path: Path) -> None:
    whole = write_tiny_model(path).read_bytes()
    path.write_bytes(whole[: len(whole) // 2])


def _truncated_header(path: Path) -> None:
    path.write_bytes(write_tiny_model(path).read_bytes()[:1000])


def _unknown(path: Path) -> None:
    writer = GGUFWriter(path, "no-such-architecture")
    add_vocabulary(writer)
    write_file(writer)


def _not_a_gguf(path: Path) -> None:
    path.write_bytes(b"This is a text file, not a model.\n" * 20)


_UNLOADABLE_WRITERS: dict[str, Callable[[Path], None]] = {
    "vocabulary-only": _vocabulary_only,
    "truncated": _truncated,
    "truncated-header": _truncated_header,
    "unknown": _unknown,
    "not-a-gguf": _not_a_gguf,
}
