"""Every architecture that is made: its metadata, where it differs from that of a plain model.

Keys are those of the file without the architecture's name; None takes one away.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

Value = bool | int | float | str | Sequence[bool] | Sequence[int] | Sequence[float] | None

WINDOW = 32  # shorter than every text of the tests

PLAIN: Mapping[str, Value] = MappingProxyType(
    {
        "context_length": 512,
        "block_count": 4,
        "embedding_length": 128,
        "feed_forward_length": 128,
        "attention.head_count": 4,
        "attention.head_count_kv": 2,
        "attention.key_length": 32,
        "attention.value_length": 32,
        "attention.layer_norm_rms_epsilon": 1e-5,
        "attention.layer_norm_epsilon": 1e-5,
        "rope.dimension_count": 32,
        "rope.freq_base": 10000.0,
    }
)


@dataclass(frozen=True)
class Architecture:
    """What makes one architecture.

    Attributes
    ----------
    keys
        Metadata besides ``PLAIN``.
    omit
        Pattern of the tensors that llama.cpp can do without, and that published models lack.
    peaky
        Standard deviation of the attention logits before the softmax.
    """

    keys: Mapping[str, Value] = field(default_factory=dict)
    omit: str = ""
    peaky: float = 4.0


_WINDOWED = {"attention.sliding_window": WINDOW, "attention.sliding_window_pattern": 2}
_EXPERTS = {"expert_count": 4, "expert_used_count": 2, "expert_feed_forward_length": 64}
_SHARED_EXPERT = {"expert_shared_count": 1, "expert_shared_feed_forward_length": 64}
_DELTA_NET = {
    "full_attention_interval": 2,
    "ssm.conv_kernel": 4,
    "ssm.inner_size": 128,
    "ssm.state_size": 32,
    "ssm.time_step_rank": 4,
    "ssm.group_count": 2,
}

ARCHITECTURES: Mapping[str, Architecture] = {
    "gemma2": Architecture(
        {**_WINDOWED, "attn_logit_softcapping": 20.0, "final_logit_softcapping": 20.0}
    ),
    "gemma3": Architecture({**_WINDOWED, "rope.freq_base_swa": 1000.0}),
    "gpt-oss": Architecture({**_WINDOWED, **_EXPERTS}),
    "lfm2": Architecture({"attention.head_count_kv": [0, 2, 0, 2], "shortconv.l_cache": 3}),
    "qwen35": Architecture({**_DELTA_NET, "rope.dimension_sections": [11, 11, 10, 0]}),
    "qwen3next": Architecture({**_DELTA_NET, **_EXPERTS, **_SHARED_EXPERT}, omit=r"ssm_in"),
}
