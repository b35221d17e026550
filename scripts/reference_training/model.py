"""A small llama-architecture transformer in PyTorch, with its structured start."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class Shape:
    """Sizes of the model; head size 64 suits every KV type of llama.cpp."""

    vocab: int
    width: int = 128
    layers: int = 3
    heads: int = 4
    kv_heads: int = 2
    head_size: int = 64
    hidden: int = 256
    rope_base: float = 1e8
    epsilon: float = 1e-5

    def asdict(self) -> dict[str, float]:
        """Field names and values."""
        return asdict(self)


class Rope:
    """Rotary embedding with interleaved pairs (llama.cpp's "norm" order)."""

    def __init__(self, head_size: int, base: float) -> None:
        self.frequencies = base ** (-torch.arange(0, head_size, 2, dtype=torch.float64) / head_size)
        self.cos = self.sin = torch.empty(0, head_size)

    def tables(self, n: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Cosines and signed sines, (n, head_size)."""
        if len(self.cos) < n or self.cos.device != device:
            angles = torch.arange(n, dtype=torch.float64)[:, None] * self.frequencies
            signs = torch.tensor([-1.0, 1.0], dtype=torch.float64)
            self.cos = angles.cos().repeat_interleave(2, 1).float().to(device)
            self.sin = (angles.sin()[..., None] * signs).flatten(1).float().to(device)
        return self.cos[:n], self.sin[:n]


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate the pairs of x, (..., n, head_size)."""
    return x * cos + x.unflatten(-1, (-1, 2)).flip(-1).flatten(-2) * sin


class Attention(nn.Module):
    """Causal attention with grouped KV heads; optionally continues a cache."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        size = shape.head_size
        self.q = nn.Linear(shape.width, shape.heads * size, bias=False)
        self.k = nn.Linear(shape.width, shape.kv_heads * size, bias=False)
        self.v = nn.Linear(shape.width, shape.kv_heads * size, bias=False)
        self.o = nn.Linear(shape.heads * size, shape.width, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """Map (batch, n, width) to the same shape."""
        size, groups = self.shape.head_size, self.shape.heads // self.shape.kv_heads
        q = self.q(x).unflatten(-1, (-1, size)).transpose(1, 2)
        k = self.k(x).unflatten(-1, (-1, size)).transpose(1, 2)
        v = self.v(x).unflatten(-1, (-1, size)).transpose(1, 2)
        dtype = v.dtype
        q = rotate(q.float(), cos, sin).to(dtype)
        k = rotate(k.float(), cos, sin).to(dtype).repeat_interleave(groups, 1)
        v = v.repeat_interleave(groups, 1)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.o(mixed.transpose(1, 2).flatten(-2))


class FeedForward(nn.Module):
    """SwiGLU."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.gate = nn.Linear(shape.width, shape.hidden, bias=False)
        self.up = nn.Linear(shape.width, shape.hidden, bias=False)
        self.down = nn.Linear(shape.hidden, shape.width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, n, width) to the same shape."""
        return self.down(F.silu(self.gate(x)) * self.up(x))


class Block(nn.Module):
    """Attention and feed-forward, each after an RMS norm."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.attn_norm = nn.RMSNorm(shape.width, eps=shape.epsilon)
        self.attn = Attention(shape)
        self.ffn_norm = nn.RMSNorm(shape.width, eps=shape.epsilon)
        self.ffn = FeedForward(shape)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """Map (batch, n, width) to the same shape."""
        x = x + self.attn(self.attn_norm(x), cos, sin)
        return x + self.ffn(self.ffn_norm(x))


class Llama(nn.Module):
    """The model; `forward` gives hidden states, `logits` maps those that are wanted."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.embedding = nn.Embedding(shape.vocab, shape.width)
        self.blocks = nn.ModuleList(Block(shape) for _ in range(shape.layers))
        self.norm = nn.RMSNorm(shape.width, eps=shape.epsilon)
        self.output = nn.Linear(shape.width, shape.vocab, bias=False)
        self.rope = Rope(shape.head_size, shape.rope_base)

    def forward(self, ids: Tensor) -> Tensor:
        """Normed hidden states (batch, n, width) of `ids` (batch, n)."""
        cos, sin = self.rope.tables(ids.shape[1], ids.device)
        x = self.embedding(ids)
        for block in self.blocks:
            x = block(x, cos, sin)
        return self.norm(x)

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits (..., vocab) of hidden states."""
        return self.output(hidden)


# Parts of the residual stream at the start: a constant, a token's code, the codes of the tokens
# one and two places back, and what an induction head retrieved.
CODE = 31
CONSTANT, OWN, BACK1, BACK2, FOUND = 0, slice(1, 32), slice(32, 63), slice(63, 94), slice(94, 125)


@torch.no_grad()
def structured_start(model: Llama, generator: torch.Generator) -> None:
    """Start with the parts that in-context retrieval needs; all weights train from there.

    Heads 0 and 1 of layer 0 attend one and two places back, by position alone (the fast RoPE
    pairs), and copy the code of the token there. Heads 0 and 2 of layer 1 find, by content (the
    slow pairs), the place whose previous token is the current one, and the place whose tokens
    two back is the previous one, and retrieve its code.
    """
    for parameter in model.parameters():
        if parameter.ndim == 2:
            spread = 0.3 / parameter.shape[1] ** 0.5
            parameter.normal_(0, spread, generator=generator)
    embedding = model.embedding.weight
    code = torch.randn(len(embedding), CODE, generator=generator)
    code *= CODE**0.5 / code.norm(dim=1, keepdim=True)
    embedding[:, CONSTANT] = 4
    embedding[:, OWN] = code
    model.output.weight[:, FOUND] += 0.3 * code
    size = model.shape.head_size
    _positional(model, size)
    _induction(model, size)


def _positional(model: Llama, size: int) -> None:
    """Heads 0 (one back) and 1 (two back) of layer 0 on KV head 0."""
    attn: Attention = model.blocks[0].attn
    frequencies = model.rope.frequencies.float()
    constant, own = 6.5, 1.63  # of the normed embedding
    strength = torch.zeros(size // 2)
    strength[0], strength[1:11] = 20.0, 7.0
    entry = (strength * size**0.5).sqrt() / constant
    attn.k.weight[0:size:2, CONSTANT] = entry
    for head, back in ((0, 1), (1, 2)):
        q = attn.q.weight[head * size : (head + 1) * size]
        q[0::2, CONSTANT] = entry * (frequencies * back).cos()
        q[1::2, CONSTANT] = -entry * (frequencies * back).sin()
    same = torch.eye(CODE)
    attn.v.weight[:CODE, OWN] += same
    attn.o.weight[BACK1, :CODE] += same / own
    attn.o.weight[BACK2, size : size + CODE] += same / own


def _induction(model: Llama, size: int) -> None:
    """Heads 0 (by the current token) and 2 (by the previous one) of layer 1."""
    attn: Attention = model.blocks[1].attn
    same = torch.eye(CODE)
    entry, slow = 1.8, size - CODE
    for head, kv, asked, held in ((0, 0, OWN, BACK1), (2, 1, BACK1, BACK2)):
        q = attn.q.weight[head * size : (head + 1) * size]
        k = attn.k.weight[kv * size : (kv + 1) * size]
        q[slow:, asked] += entry * same
        k[slow:, held] += entry * same
        attn.v.weight[kv * size : kv * size + CODE, OWN] += same
        attn.o.weight[FOUND, head * size : head * size + CODE] += same
