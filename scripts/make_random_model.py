"""Write a model of a real shape with random Q8_0 weights, for measuring speed and memory.

    python scripts/make_random_model.py OUT.gguf

16 layers, 2048 wide, 32 query and 8 KV heads of 64, feed-forward 8192: the shape of a 1B model.
What it writes is noise; how long it takes and how much memory it needs are those of the shape.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from gguf import GGMLQuantizationType, GGUFWriter, LlamaFileType

from scope_cpp.reference.tiny_model import add_vocabulary, write_file

N_LAYER, N_EMBD, N_FF, N_HEAD, N_HEAD_KV, HEAD_DIM = 16, 2048, 8192, 32, 8, 64
BLOCK = 32  # weights of a Q8_0 block, behind one f16 scale


def random_q8_0(rng: np.random.Generator, rows: int, columns: int) -> np.ndarray:
    """Return random Q8_0 blocks, uint8 (rows, bytes), whose rows have about unit gain."""
    blocks = np.empty((rows, columns // BLOCK, 2 + BLOCK), np.uint8)
    scale = np.float16(1 / (73 * np.sqrt(columns)))  # int8 values spread over ±127: deviation 73
    blocks[..., :2] = np.frombuffer(scale.tobytes(), np.uint8)
    blocks[..., 2:] = rng.integers(0, 256, blocks[..., 2:].shape, np.uint8)
    return blocks.reshape(rows, -1)


def write(path: Path) -> None:
    """Write the model."""
    rng = np.random.default_rng(0)
    writer = GGUFWriter(path, "llama")
    writer.add_name("random 1B")
    writer.add_file_type(LlamaFileType.MOSTLY_Q8_0)
    writer.add_context_length(32768)
    writer.add_block_count(N_LAYER)
    writer.add_embedding_length(N_EMBD)
    writer.add_feed_forward_length(N_FF)
    writer.add_head_count(N_HEAD)
    writer.add_head_count_kv(N_HEAD_KV)
    writer.add_key_length(HEAD_DIM)
    writer.add_value_length(HEAD_DIM)
    writer.add_rope_dimension_count(HEAD_DIM)
    writer.add_rope_freq_base(500000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    n_vocab = add_vocabulary(writer)

    def matrix(name: str, rows: int, columns: int) -> None:
        data = random_q8_0(rng, rows, columns)
        writer.add_tensor(f"{name}.weight", data, raw_dtype=GGMLQuantizationType.Q8_0)

    def norm(name: str) -> None:
        writer.add_tensor(f"{name}.weight", np.ones(N_EMBD, np.float32))

    matrix("token_embd", n_vocab, N_EMBD)
    matrix("output", n_vocab, N_EMBD)
    norm("output_norm")
    for i in range(N_LAYER):
        layer = f"blk.{i}"
        norm(f"{layer}.attn_norm")
        norm(f"{layer}.ffn_norm")
        matrix(f"{layer}.attn_q", N_HEAD * HEAD_DIM, N_EMBD)
        matrix(f"{layer}.attn_k", N_HEAD_KV * HEAD_DIM, N_EMBD)
        matrix(f"{layer}.attn_v", N_HEAD_KV * HEAD_DIM, N_EMBD)
        matrix(f"{layer}.attn_output", N_EMBD, N_HEAD * HEAD_DIM)
        matrix(f"{layer}.ffn_gate", N_FF, N_EMBD)
        matrix(f"{layer}.ffn_up", N_FF, N_EMBD)
        matrix(f"{layer}.ffn_down", N_EMBD, N_FF)
    write_file(writer)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    write(parser.parse_args().out)
