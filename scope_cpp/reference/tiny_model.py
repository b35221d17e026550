"""Random GGUF models of a few megabytes, of the architectures that scope-cpp supports.

The weights are random but not arbitrary: queries and keys are scaled so that attention is peaked,
because with flat attention no eviction would change much and a test of it would prove little.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from gguf import GGMLQuantizationType, GGUFWriter, LlamaFileType, TokenType
from gguf.quants import quantize

F32 = npt.NDArray[np.float32]
Value = bool | int | float | str | Sequence[bool] | Sequence[int] | Sequence[float]

ARCHITECTURES = ("llama", "mistral3", "qwen2", "qwen3", "phi3")

# llama.cpp requires n_head * head_dim == n_embd for these
_SQUARE = ("qwen2", "phi3")

_WEIGHT_TYPES = {
    "f32": (GGMLQuantizationType.F32, LlamaFileType.ALL_F32),
    "f16": (GGMLQuantizationType.F16, LlamaFileType.MOSTLY_F16),
    "q8_0": (GGMLQuantizationType.Q8_0, LlamaFileType.MOSTLY_Q8_0),
}

_SPACE = "\u2581"  # how SentencePiece vocabularies write a space

# in order of merging; every piece is the union of two earlier ones or of single characters
_WORDS = "th er in on an re he at en ou es or is it ed to ar ing the and _t _a _s _w _the _and _to"
_MERGES = _WORDS.replace("_", _SPACE).split()

# logits of standard deviation 3: greedy choices then rarely hang on rounding
_OUTPUT_SCALE = 3.0
_NORM_EPS = 1e-5


@dataclass(frozen=True)
class TinyModel:
    """Shape and seed of a random model.

    Attributes
    ----------
    arch : str
        One of ``ARCHITECTURES``.
    n_embd, n_head : int, optional
        Width and query heads. Default: 128 and 8; for qwen2 and phi3, where the width is
        ``n_head * head_dim``, 4 heads.
    peaky : float
        Standard deviation of the attention logits before the softmax.
    weight_type : str
        ``f32``, ``f16`` or ``q8_0``, for matrices; vectors are always f32.
    n_expert, n_expert_used : int
        Experts per layer; 0 means a dense feed-forward. Architecture llama only.
    chat_template : str, optional
        Jinja template stored in the file.
    metadata : tuple of (str, bool or int or float or str)
        Keys that the file has besides.

    Raises
    ------
    ValueError
        When llama.cpp has no model of this shape.
    """

    arch: str = "llama"
    n_layer: int = 2
    n_embd: int | None = None
    n_head: int | None = None
    n_head_kv: int = 2
    head_dim: int = 64
    n_ff: int = 128
    n_ctx_train: int = 512
    rope_freq_base: float = 10000.0
    peaky: float = 4.0
    seed: int = 0
    weight_type: str = "f32"
    n_expert: int = 0
    n_expert_used: int = 2
    chat_template: str | None = None
    metadata: tuple[tuple[str, bool | int | float | str], ...] = ()

    def __post_init__(self) -> None:
        if self.arch not in ARCHITECTURES:
            raise ValueError(f"unknown architecture {self.arch!r}: one of {ARCHITECTURES}")
        if self.weight_type not in _WEIGHT_TYPES:
            raise ValueError(f"weight type {self.weight_type!r}: one of {tuple(_WEIGHT_TYPES)}")
        if self.arch in _SQUARE and self.width != self.heads * self.head_dim:
            raise ValueError(f"{self.arch} needs n_embd = n_head * head_dim")
        if self.heads % self.n_head_kv:
            raise ValueError(f"n_head {self.heads} is no multiple of n_head_kv {self.n_head_kv}")
        if self.n_expert and self.arch != "llama":
            raise ValueError("experts are written for architecture llama only")

    @property
    def heads(self) -> int:
        """Query heads per layer."""
        return self.n_head or (4 if self.arch in _SQUARE else 8)

    @property
    def width(self) -> int:
        """Size of the residual stream."""
        return self.n_embd or (self.heads * self.head_dim if self.arch in _SQUARE else 128)


def write_tiny_model(path: str | Path, **fields: Any) -> Path:
    """Write a random model that loads and decodes in llama.cpp.

    Parameters
    ----------
    path : str or Path
        File to write; an existing one is replaced.
    **fields
        The fields of `TinyModel`.

    Returns
    -------
    Path
        `path`.
    """
    model = TinyModel(**fields)
    matrix_type, file_type = _WEIGHT_TYPES[model.weight_type]
    writer = GGUFWriter(path, model.arch)
    _add_shape(writer, model)
    writer.add_file_type(file_type)
    n_vocab = add_vocabulary(writer)
    if model.chat_template is not None:
        writer.add_chat_template(model.chat_template)
    for key, value in model.metadata:
        add_value(writer, key, value)
    for name, weights in _tensors(model, n_vocab):
        _add_tensor(writer, name, weights, matrix_type)
    write_file(writer)
    return Path(path)


def write_file(writer: GGUFWriter) -> None:
    """Write all that `writer` holds to its file and close it."""
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def add_vocabulary(writer: GGUFWriter, n_min: int = 0) -> int:
    """Add a SentencePiece vocabulary that covers every text, and return its size.

    It has at least `n_min` tokens; those beyond its own are unused.

    It has ``<unk>``, ``<s>``, ``</s>``, the 256 byte tokens (without which llama.cpp cannot
    tokenize unknown characters), printable ASCII and a few merged pieces. No space is put before
    a text, so ASCII text survives tokenizing and detokenizing unchanged.
    """
    control = [("<unk>", TokenType.UNKNOWN)]
    control += [("<s>", TokenType.CONTROL), ("</s>", TokenType.CONTROL)]
    byte = [(f"<0x{value:02X}>", TokenType.BYTE) for value in range(256)]
    characters = [_SPACE] + [chr(code) for code in range(0x21, 0x7F)]
    normal = [(piece, TokenType.NORMAL) for piece in characters + _MERGES]
    tokens = control + byte + normal
    # a merge with a higher score happens first; single characters are never merged into
    scores = [0.0] * (len(tokens) - len(_MERGES)) + [-1.0 - rank for rank in range(len(_MERGES))]
    more = range(n_min - len(tokens))
    tokens += [(f"<unused{i}>", TokenType.UNUSED) for i in more]
    scores += [0.0 for _ in more]
    writer.add_tokenizer_model("llama")
    writer.add_token_list([piece for piece, _ in tokens])
    writer.add_token_types([kind for _, kind in tokens])
    writer.add_token_scores(scores)
    writer.add_unk_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_add_bos_token(True)
    writer.add_add_space_prefix(False)
    return len(tokens)


def add_value(writer: GGUFWriter, key: str, value: Value) -> None:
    """Add a key of the metadata, of the type that its value has."""
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    elif isinstance(value, str):
        writer.add_string(key, value)
    else:
        writer.add_array(key, list(value))


def _add_shape(writer: GGUFWriter, model: TinyModel) -> None:
    # llama.cpp expects the special tokens of Phi in a file that has "phi3" in its name
    writer.add_name("tiny random model")
    writer.add_context_length(model.n_ctx_train)
    writer.add_block_count(model.n_layer)
    writer.add_embedding_length(model.width)
    writer.add_feed_forward_length(model.n_ff)
    writer.add_head_count(model.heads)
    writer.add_head_count_kv(model.n_head_kv)
    writer.add_key_length(model.head_dim)
    writer.add_value_length(model.head_dim)
    writer.add_rope_dimension_count(model.head_dim)
    writer.add_rope_freq_base(model.rope_freq_base)
    writer.add_layer_norm_rms_eps(_NORM_EPS)
    if model.n_expert:
        writer.add_expert_count(model.n_expert)
        writer.add_expert_used_count(model.n_expert_used)


def _add_tensor(
    writer: GGUFWriter, name: str, weights: F32, matrix_type: GGMLQuantizationType
) -> None:
    # the router of a mixture of experts stays f32, as in published models
    if weights.ndim == 1 or matrix_type == GGMLQuantizationType.F32 or "gate_inp" in name:
        writer.add_tensor(name, weights)
    else:
        writer.add_tensor(name, quantize(weights, matrix_type), raw_dtype=matrix_type)


def _random(rng: np.random.Generator, *shape: int, scale: float = 1.0) -> F32:
    """Matrix (..., outputs, inputs) that maps inputs of unit variance to outputs of scale**2."""
    weights = rng.standard_normal(shape, dtype=np.float32)
    return weights * np.float32(scale / np.sqrt(shape[-1]))


def _around_one(rng: np.random.Generator, size: int, scale: float = 1.0) -> F32:
    """Norm weights: not all equal, so that a forgotten one shows."""
    return (scale * rng.uniform(0.8, 1.2, size)).astype(np.float32)


def _tensors(model: TinyModel, n_vocab: int) -> Iterator[tuple[str, F32]]:
    rng = np.random.default_rng(model.seed)
    yield "token_embd.weight", rng.standard_normal((n_vocab, model.width), dtype=np.float32)
    for layer in range(model.n_layer):
        for name, weights in _layer(model, rng):
            yield f"blk.{layer}.{name}", weights
    yield "output_norm.weight", _around_one(rng, model.width)
    output = _random(rng, n_vocab, model.width, scale=_OUTPUT_SCALE)
    # control tokens get logit 0, far below the best, so that a random model does not stop early;
    # byte tokens are damped, so that it writes mostly printable text
    output[:3] = 0.0
    output[3:259] *= 0.25
    yield "output.weight", output


def _layer(model: TinyModel, rng: np.random.Generator) -> Iterator[tuple[str, F32]]:
    yield "attn_norm.weight", _around_one(rng, model.width)
    yield from _attention(model, rng)
    yield "attn_output.weight", _random(rng, model.width, model.heads * model.head_dim)
    yield "ffn_norm.weight", _around_one(rng, model.width)
    yield from _feed_forward(model, rng)


def _attention(model: TinyModel, rng: np.random.Generator) -> Iterator[tuple[str, F32]]:
    sharp = float(np.sqrt(model.peaky))  # in Q and in K: their product then has scale `peaky`
    n_q, n_kv = model.heads * model.head_dim, model.n_head_kv * model.head_dim
    q = _random(rng, n_q, model.width, scale=sharp)
    k = _random(rng, n_kv, model.width, scale=sharp)
    v = _random(rng, n_kv, model.width)
    if model.arch == "phi3":
        yield "attn_qkv.weight", np.concatenate([q, k, v])
        return
    yield from {"attn_q.weight": q, "attn_k.weight": k, "attn_v.weight": v}.items()
    if model.arch == "qwen2":
        for name, size in (("q", n_q), ("k", n_kv), ("v", n_kv)):
            yield f"attn_{name}.bias", _random(rng, size, 1, scale=0.5)[:, 0]
    if model.arch == "qwen3":  # the norm undoes the scale of Q and K, so its weights carry it
        yield "attn_q_norm.weight", _around_one(rng, model.head_dim, sharp)
        yield "attn_k_norm.weight", _around_one(rng, model.head_dim, sharp)


def _feed_forward(model: TinyModel, rng: np.random.Generator) -> Iterator[tuple[str, F32]]:
    if model.arch == "phi3":
        yield "ffn_up.weight", _random(rng, 2 * model.n_ff, model.width)
        yield "ffn_down.weight", _random(rng, model.width, model.n_ff)
        return
    experts = (model.n_expert,) if model.n_expert else ()
    suffix = "_exps" if model.n_expert else ""
    if model.n_expert:
        yield "ffn_gate_inp.weight", _random(rng, model.n_expert, model.width)
    yield f"ffn_gate{suffix}.weight", _random(rng, *experts, model.n_ff, model.width)
    yield f"ffn_up{suffix}.weight", _random(rng, *experts, model.n_ff, model.width)
    yield f"ffn_down{suffix}.weight", _random(rng, *experts, model.width, model.n_ff)
