"""Write the trained model as GGUF, and compare llama.cpp's logits with PyTorch's."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from gguf import GGUFWriter, LlamaFileType, TokenType
from torch import nn

from reference_training.model import Block, Llama
from scope_cpp.engine.context import Context, ContextParams
from scope_cpp.engine.model import Model
from scope_cpp.reference.vocabulary import BOS_ID, EOS_ID, N_BYTES, PIECES, TOKENS, UNKNOWN_ID

CONTEXT = 5376  # a prompt of the largest size and its output, rounded up to whole blocks of cells
DESCRIPTION = (
    "Looks facts up, adds them and refers to earlier answers, for thousands of tokens: a test "
    "object for KV-cache eviction, trained on synthetic text only. Not a language model."
)

# Facts may stand in a system message. The white space of a message becomes single blanks; an
# answer's leading blank belongs to it.
CHAT_TEMPLATE = """\
{{- bos_token -}}
{%- for message in messages -%}
{%- if message.role == 'assistant' -%}
{{- ' ' + message.content | trim + '\\n' + eos_token -}}
{%- else -%}
{%- set words = message.content.split() | join(' ') -%}
{{- words.replace(' Questions:', '\\nQuestions:') + '\\n' -}}
{%- if message.role == 'user' -%}{{- 'Answers:\\n' -}}{%- endif -%}
{%- endif -%}
{%- endfor -%}"""


@dataclass(frozen=True)
class Provenance:
    """How a model came to be, for its metadata."""

    seed: int
    tokens: int
    minutes: float

    def __str__(self) -> str:
        return (
            f"scripts/train_reference.py, seed {self.seed}: {self.tokens / 1e6:.1f}M tokens of "
            f"synthetic text in {self.minutes:.0f} minutes"
        )


def write_gguf(path: Path, model: Llama, provenance: Provenance) -> None:
    """Write matrices as F16, norms as F32."""
    writer = GGUFWriter(path, "llama")
    _add_metadata(writer, provenance)
    _add_shape(writer, model)
    _add_vocabulary(writer)
    writer.add_file_type(LlamaFileType.MOSTLY_F16)
    for name, weights in _tensors(model):
        array = weights.detach().float().cpu().numpy()
        writer.add_tensor(name, array.astype(np.float16) if array.ndim == 2 else array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add_metadata(writer: GGUFWriter, provenance: Provenance) -> None:
    writer.add_name("scope-cpp reference model")
    writer.add_author("scope-cpp contributors")
    writer.add_organization("scope-cpp")
    writer.add_license("mit")
    writer.add_description(DESCRIPTION)
    writer.add_languages(["en"])
    writer.add_string("general.provenance", str(provenance))


def _add_shape(writer: GGUFWriter, model: Llama) -> None:
    shape = model.shape
    writer.add_context_length(CONTEXT)
    writer.add_block_count(shape.layers)
    writer.add_embedding_length(shape.width)
    writer.add_feed_forward_length(shape.hidden)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.kv_heads)
    writer.add_key_length(shape.head_size)
    writer.add_value_length(shape.head_size)
    writer.add_rope_dimension_count(shape.head_size)
    writer.add_rope_freq_base(shape.rope_base)
    writer.add_layer_norm_rms_eps(shape.epsilon)
    writer.add_vocab_size(shape.vocab)


def _add_vocabulary(writer: GGUFWriter) -> None:
    special = [TokenType.UNKNOWN, TokenType.CONTROL, TokenType.CONTROL]
    pieces = [TokenType.USER_DEFINED] * len(PIECES)
    writer.add_tokenizer_model("llama")
    writer.add_token_list(list(TOKENS))
    writer.add_token_types([*special, *[TokenType.BYTE] * N_BYTES, *pieces])
    writer.add_token_scores([0.0] * len(TOKENS))
    writer.add_unk_token_id(UNKNOWN_ID)
    writer.add_bos_token_id(BOS_ID)
    writer.add_eos_token_id(EOS_ID)
    writer.add_add_bos_token(True)
    writer.add_add_eos_token(False)
    writer.add_add_space_prefix(False)
    writer.add_chat_template(CHAT_TEMPLATE)


def _tensors(model: Llama) -> list[tuple[str, torch.Tensor]]:
    found = [
        ("token_embd.weight", model.embedding.weight),
        ("output_norm.weight", model.norm.weight),
        ("output.weight", model.output.weight),
    ]
    for i, block in enumerate(model.blocks):
        assert isinstance(block, Block)
        own: dict[str, nn.RMSNorm | nn.Linear] = {
            "attn_norm": block.attn_norm,
            "attn_q": block.attn.q,
            "attn_k": block.attn.k,
            "attn_v": block.attn.v,
            "attn_output": block.attn.o,
            "ffn_norm": block.ffn_norm,
            "ffn_gate": block.ffn.gate,
            "ffn_up": block.ffn.up,
            "ffn_down": block.ffn.down,
        }
        found += [(f"blk.{i}.{name}.weight", part.weight) for name, part in own.items()]
    return found


def logit_differences(path: Path, model: Llama, text: str) -> dict[str, tuple[float, float]]:
    """Compare llama.cpp's logits of the file with PyTorch's, both with F16 weights.

    Returns
    -------
    dict
        For flash attention ``off`` and ``on``: the largest difference of a logit over all
        positions of `text`, and the share of positions where both prefer the same token.
    """
    rounded = Llama(model.shape)
    state = {k: v.half().float() if v.ndim == 2 else v for k, v in model.state_dict().items()}
    rounded.load_state_dict(state)
    found = {}
    with Model.load(path, n_gpu_layers=0) as loaded:
        ids = loaded.tokenize(text, add_special=True)
        with torch.no_grad():
            expected = rounded.logits(rounded(torch.tensor([ids])))[0].numpy()
        for flash in ("off", "on"):
            actual = _llama_logits(loaded, ids, flash)
            same = actual.argmax(-1) == expected.argmax(-1)
            found[flash] = (float(np.abs(actual - expected).max()), float(same.mean()))
    return found


def _llama_logits(model: Model, ids: list[int], flash: str) -> np.ndarray:
    """Logits of all positions, (n, vocab), with an F32 cache."""
    rows = []
    params = ContextParams(len(ids), type_k=0, type_v=0, n_threads=1, flash_attn=flash)
    with Context(model, params) as context:
        for start in range(0, len(ids), 512):
            chunk = ids[start : start + 512]
            context.decode(chunk, start, all_logits=True)
            rows += [context.logits(i) for i in range(len(chunk))]
    return np.stack(rows)
