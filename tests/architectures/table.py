"""Every architecture that is made: its metadata, where it differs from that of a plain model.

Keys are those of the file without the architecture's name. llama.cpp itself names the tensors and
their shapes, so nothing of them stands here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from scope_cpp.reference.tiny_model import Value

Keys = Mapping[str, Value]

WINDOW = 32  # shorter than every text of the tests


@dataclass(frozen=True)
class Architecture:
    """What makes one architecture.

    Attributes
    ----------
    keys
        Metadata besides ``PLAIN``.
    arch
        The architecture's name, where a variant of it has another name in the table.
    omit, keep
        Patterns of optional tensors: those to leave out, because they stand for one another or
        another graph would follow, and those to have although they are left out elsewhere.
    peaky
        Standard deviation of the attention logits before the softmax. Where the model does not
        divide them by the root of the head size, less keeps it from chaos.
    embedding
        Standard deviation of the tokens' embeddings. Where the model multiplies them, less keeps
        the token itself from drowning what attention adds.
    n_vocab
        Least number of tokens; 0 for those of the tiny vocabulary.
    generates
        Whether it writes text, token by token; the others are only loaded.
    """

    keys: Keys = field(default_factory=dict)
    arch: str = ""
    omit: str = ""
    keep: str = ""
    peaky: float = 4.0
    embedding: float = 1.0
    n_vocab: int = 0
    generates: bool = True


PLAIN: Keys = {
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

# parts that several architectures share
_ALL_HEADS: Keys = {"attention.head_count_kv": 4}
_NO_HEADS: Keys = {"attention.head_count": 0, "attention.head_count_kv": 0}
_SECTIONS: Keys = {"rope.dimension_sections": [6, 5, 5, 0]}
_SCALES: Keys = {"logit_scale": 1.0, "residual_scale": 1.0, "embedding_scale": 1.0}
_WIDTH_64: Keys = {"embedding_length": 64, "attention.head_count": 2, "attention.head_count_kv": 2}

_EXPERTS: Keys = {"expert_count": 4, "expert_used_count": 2, "expert_feed_forward_length": 64}
_SHARED_EXPERT: Keys = {
    **_EXPERTS,
    "expert_shared_count": 1,
    "expert_shared_feed_forward_length": 64,
    "expert_gating_func": 2,  # a sigmoid
    "interleave_moe_layer_step": 1,
}
_DENSE_FIRST: Keys = {**_SHARED_EXPERT, "leading_dense_block_count": 1}

_WINDOWED: Keys = {"attention.sliding_window": WINDOW, "attention.sliding_window_pattern": 2}
_LISTED: Keys = {
    "attention.sliding_window": WINDOW,
    "attention.sliding_window_pattern": [True, False, True, False],
}
_GEMMA_4: Keys = {
    "block_count": 6,
    "attention.sliding_window": WINDOW,
    "attention.sliding_window_pattern": [True, False, True, False, True, False],
    "attention.head_count_kv": [2, 1, 2, 1, 2, 1],
    "attention.key_length": 64,
    "attention.value_length": 64,
    "attention.key_length_swa": 32,
    "attention.value_length_swa": 32,
    "rope.dimension_count": 64,
    "rope.dimension_count_swa": 32,
}

# layers with other numbers of heads, with a matrix in place of attention, and with neither
_PRUNED: Keys = {
    "block_count": 6,
    "attention.head_count": [4, 4, 0, 4, 4, 4],
    "attention.head_count_kv": [2, 4, 0, 1, 0, 2],
}
_GROWING: Keys = {
    "attention.head_count": [2, 4, 4, 6],
    "attention.head_count_kv": [1, 2, 2, 3],
}

_EVERY_OTHER: Keys = {"attention.head_count_kv": [0, 2, 0, 2]}  # the others have a recurrent state
_CONVOLUTION: Keys = {**_EVERY_OTHER, "shortconv.l_cache": 3}
_DELTA_NET: Keys = {
    "full_attention_interval": 2,
    "ssm.conv_kernel": 4,
    "ssm.inner_size": 128,
    "ssm.state_size": 32,
    "ssm.time_step_rank": 4,
    "ssm.group_count": 2,
}
_MAMBA: Keys = {
    "ssm.conv_kernel": 4,
    "ssm.inner_size": 256,
    "ssm.state_size": 16,
    "ssm.time_step_rank": 8,
}
_MAMBA_2: Keys = {**_MAMBA, "ssm.group_count": 2}
_NEMOTRON_H: Keys = {
    **_MAMBA_2,
    "block_count": 6,
    "attention.head_count_kv": [0, 0, 2, 0, 0, 2],
    "feed_forward_length": [0, 128, 0, 0, 128, 0],
}
# as real ones: ggml's AVX-512 kernel goes through a head 64 numbers at a time
_RWKV: Keys = {**_NO_HEADS, "wkv.head_size": 64}
_RWKV_6: Keys = {**_RWKV, "time_mix_extra_dim": 16, "time_decay_extra_dim": 16}
_RWKV_7: Keys = {
    **_RWKV,
    "attention.decay_lora_rank": 16,
    "attention.iclr_lora_rank": 16,
    "attention.value_residual_mix_lora_rank": 16,
    "attention.gate_lora_rank": 16,
}

_LATENT: Keys = {
    "attention.head_count_kv": 1,
    "attention.q_lora_rank": 32,
    "attention.kv_lora_rank": 32,
    "attention.key_length": 48,
    "attention.value_length": 32,
    "attention.key_length_mla": 32,
    "attention.value_length_mla": 32,
    "rope.dimension_count": 16,
}
_KDA: Keys = {
    **_LATENT,
    **_DENSE_FIRST,
    "attention.head_count_kv": [0, 1, 0, 1],
    "ssm.conv_kernel": 4,
    "kda.head_dim": 32,
    "kda.gate_lower_bound": -5.0,
}
_INDEXER: Keys = {
    "attention.indexer.head_count": 4,
    "attention.indexer.key_length": 64,  # as wide as the Hadamard rotation at least
    "attention.indexer.top_k": 64,
}
_LATENT_INDEXER: Keys = {**_LATENT, **_DENSE_FIRST, **_INDEXER}
_HYPER: Keys = {
    "hyper_connection.count": 4,
    "hyper_connection.sinkhorn_iterations": 4,
    "hyper_connection.epsilon": 1e-6,
    "hyper_connection.magnitude": 1.0,
    "hyper_connection.low_rank": 16,
}

_ENCODER: Keys = {
    **_ALL_HEADS,
    **_WINDOWED,
    "tokenizer.ggml.token_type_count": 2,
    "tokenizer.ggml.mask_token_id": 5,
    "attention.relative_buckets_count": 32,
}


def _each(names: str, entry: Architecture) -> dict[str, Architecture]:
    return dict.fromkeys(names.split(), entry)


_ATTENTION = {
    **_each(
        "arcee baichuan bitnet bloom chatglm codeshell cogvlm command-r deci ernie4_5 exaone "
        "exaone4 falcon gemma glm4 gpt2 hunyuan-dense internlm2 jais2 llama maincoder "
        "mistral3 nanbeige nemotron olmo olmo2 openelm orion pangu-embedded phi2 phi3 plamo "
        "qwen qwen2 qwen3 refact seed_oss smollm3 stablelm starcoder starcoder2 xverse",
        Architecture(),
    ),
    "chameleon": Architecture(_WIDTH_64, n_vocab=8200),
    **_each("hunyuan_vl paddleocr qwen2vl qwen3vl", Architecture(_SECTIONS)),
    "apertus": Architecture(
        {f"xielu.{name}": 0.8 for name in ("alpha_n", "alpha_p", "beta", "eps")}
    ),
    "deci-pruned": Architecture(_PRUNED, arch="deci"),
    "openelm-growing": Architecture(_GROWING, arch="openelm"),
    "gptneox": Architecture({"use_parallel_residual": True}),
    **_each("granite minicpm", Architecture(_SCALES)),
    "graniteswitch": Architecture(
        {
            **_SCALES,
            "adapters.count": 1,
            "adapters.lora_rank": 4,
            "adapters.token_ids_activate": [5],
            "adapters.token_ids_substitute": [6],
        },
        peaky=2.0,
    ),
    "hrm_text": Architecture({"hrm.layers_per_stack": 1, "hrm.h_cycles": 2, "hrm.l_cycles": 1}),
    **_each("jais mpt", Architecture({"attention.max_alibi_bias": 8.0})),
    "talkie": Architecture(_SCALES, embedding=0.1),
    # with experts
    **_each("olmoe qwen2moe qwen3moe", Architecture({**_EXPERTS, **_ALL_HEADS})),
    **_each("arctic phimoe", Architecture(_EXPERTS)),
    **_each(
        "bailingmoe2 deepseek deepseek2-ocr dots1 ernie4_5-moe glm4moe hunyuan-moe hy_v3 "
        "minimax-m2",
        Architecture({**_DENSE_FIRST, **_ALL_HEADS}),
    ),
    "bailingmoe": Architecture(_DENSE_FIRST),
    "dbrx": Architecture({**_EXPERTS, "attention.clamp_kqv": 8.0}),
    "granitemoe": Architecture({**_EXPERTS, **_SCALES}),
    "grok": Architecture({**_EXPERTS, **_SCALES}),
    "grovemoe": Architecture(
        {
            **_EXPERTS,
            "expert_chunk_feed_forward_length": 64,
            "expert_group_scale": 0.5,
            "experts_per_group": 2,
        }
    ),
    "llama-experts": Architecture(_EXPERTS, arch="llama"),
    "qwen3vlmoe": Architecture({**_EXPERTS, **_SECTIONS}),
}

_WINDOWS = {
    **_each("cohere2 muse-glimmer", Architecture({**_WINDOWED, **_SCALES})),
    **_each(
        "exaone-moe laguna mellum smallthinker",
        Architecture({**_WINDOWED, **_DENSE_FIRST}),
    ),
    **_each(
        "granite_swa maple mimo2 spark2_5 step35",
        Architecture({**_LISTED, **_DENSE_FIRST, **_SCALES, "swiglu_clamp_exp": 7.0}),
    ),
    "afmoe": Architecture({**_WINDOWED, **_DENSE_FIRST}, embedding=0.1),
    "cohere2moe": Architecture({**_WINDOWED, **_DENSE_FIRST, **_SCALES}),
    # the published ones with windows have 64 layers, by which llama.cpp knows them
    "exaone4-windowed": Architecture(
        {**_WINDOWED, **_WIDTH_64, "block_count": 64}, arch="exaone4", peaky=1.5
    ),
    "gemma2": Architecture(
        {**_WINDOWED, "attn_logit_softcapping": 20.0, "final_logit_softcapping": 20.0}
    ),
    "gemma3": Architecture({**_WINDOWED, "rope.freq_base_swa": 1000.0}, embedding=0.1),
    # layers 20 and 21 reuse the cells of 18 and 19; of the units of a layer only 5 % are active
    "gemma3n": Architecture(
        {**_WINDOWED, **_WIDTH_64, "block_count": 22, "feed_forward_length": 512}, peaky=0.3
    ),
    # layers 4 and 5 reuse the cells of 2 and 3
    "gemma4": Architecture(
        {**_GEMMA_4, "attention.shared_kv_layers": 2, "embedding_length_per_layer_input": 32},
        peaky=0.5,
        embedding=0.1,
    ),
    "gemma4-experts": Architecture(
        {**_GEMMA_4, **_EXPERTS, "embedding_length_per_layer_input": 0},
        arch="gemma4",
        keep=r"ffn_(gate_inp|down_exps)\.scale",
        peaky=0.5,
        embedding=0.1,
    ),
    "gpt-oss": Architecture({**_WINDOWED, **_EXPERTS}),
    # chunks of 8192 tokens, which no key changes
    "llama4": Architecture({**_EXPERTS, "interleave_moe_layer_step": 2}),
    "olmo2-windowed": Architecture(_WINDOWED, arch="olmo2"),
    "plamo3": Architecture(_WINDOWED, embedding=0.1),
}

_HYBRID = {
    **_each(
        "qwen3next qwen35moe",
        Architecture({**_DELTA_NET, **_SECTIONS, **_SHARED_EXPERT}, omit="ssm_in"),
    ),
    "falcon-h1": Architecture(_MAMBA_2),
    "granitehybrid": Architecture({**_MAMBA_2, **_EVERY_OTHER}),
    "granitehybrid-experts": Architecture(
        {**_MAMBA_2, **_EVERY_OTHER, **_SHARED_EXPERT}, arch="granitehybrid"
    ),
    "jamba": Architecture({**_MAMBA, **_EVERY_OTHER}),
    "jamba-experts": Architecture({**_MAMBA, **_EVERY_OTHER, **_EXPERTS}, arch="jamba"),
    "lfm2": Architecture(_CONVOLUTION),
    "lfm2-windowed": Architecture(
        {**_CONVOLUTION, "attention.sliding_window": WINDOW}, arch="lfm2"
    ),
    "lfm2moe": Architecture({**_CONVOLUTION, **_DENSE_FIRST}),
    "minimax-01": Architecture({**_EXPERTS, **_SCALES, "full_attention_interval": 2}),
    "nemotron_h": Architecture(_NEMOTRON_H),
    "nemotron_h_moe": Architecture({**_NEMOTRON_H, **_SHARED_EXPERT}),
    "plamo2": Architecture({**_MAMBA, **_EVERY_OTHER, "ssm.group_count": 0}, embedding=0.1),
    "qwen35": Architecture({**_DELTA_NET, **_SECTIONS}),
}

_LATENT_CACHE = {
    **_each("deepseek2 mistral4", Architecture({**_LATENT, **_DENSE_FIRST})),
    **_each("bailingmoe3 kimi-linear", Architecture(_KDA)),
    "kimi-k3": Architecture(
        {
            **_KDA,
            "attn_res.block_size": 2,
            "activation.situ_beta": 1.0,
            "activation.situ_linear_beta": 1.0,
        }
    ),
    "minicpm3": Architecture({**_LATENT, **_ALL_HEADS}, embedding=0.1),
}

_INDEXED = {
    **_each("deepseek32 glm-dsa", Architecture(_LATENT_INDEXER)),
    "deepseek4": Architecture(
        {
            **_DENSE_FIRST,
            **_INDEXER,
            **_HYPER,
            "attention.sliding_window": WINDOW,
            "attention.head_count_kv": 1,
            "attention.q_lora_rank": 32,
            "attention.key_length": 64,
            "attention.value_length": 64,
            "attention.output_group_count": 2,
            "attention.output_lora_rank": 32,
            "attention.compress_rope_freq_base": 10000.0,
            "attention.compress_ratios": [0, 4, 128, 4],
            "expert_gating_func": 4,  # the root of a softplus
            "expert_weights_scale": 1.0,
            "expert_weights_norm": True,
            "hash_layer_count": 0,
            "swiglu_clamp_exp": 7.0,
        }
    ),
    "dots3note": Architecture(
        {
            **_LATENT_INDEXER,
            **_LISTED,
            "attention.indexer.types": [0, 1, 0, 1],
            "attention.key_length_swa": 48,
            "attention.value_length_swa": 32,
            "attention.kv_lora_rank_swa": 32,
            "attention.key_length_mla_swa": 32,
            "attention.value_length_mla_swa": 32,
            "rope.freq_base_swa": 10000.0,
        }
    ),
    "glm5-next": Architecture(
        {
            **_KDA,
            **_INDEXER,
            **_HYPER,
            "attention.indexer.kpool": 4,
            "attention.key_length": 32,
            "rope.dimension_count": 0,
        }
    ),
    "hy_v4": Architecture({**_LATENT_INDEXER, **_HYPER, "attention.indexer.types": [1, 1, 1, 1]}),
    "minimax-m3": Architecture(
        {
            **_DENSE_FIRST,
            **_INDEXER,
            "attention.indexer.head_count": 2,
            "attention.indexer.top_k": 8,
            "attention.indexer.block_size": 16,
            "attention.indexer.local_blocks": 1,
        }
    ),
    "qwen4exp": Architecture({**_DELTA_NET, **_SECTIONS, **_SHARED_EXPERT, **_INDEXER, **_HYPER}),
}

_RECURRENT = {
    "arwkv7": Architecture({**_RWKV_7, "token_shift_count": 1}),
    "mamba": Architecture({**_MAMBA, **_NO_HEADS}),
    "mamba2": Architecture({**_MAMBA_2, **_NO_HEADS}),
    "rwkv6": Architecture(_RWKV_6),
    "rwkv6qwen2": Architecture(
        {
            **_RWKV_6,
            "token_shift_count": 1,
            "attention.head_count": 4,
            "attention.head_count_kv": 2,
        },
        omit="time_mix_first",
    ),
    "rwkv7": Architecture(_RWKV_7),
}

_OTHER = {
    **_each("dream llada", Architecture(generates=False)),
    **_each("llada-moe rnd1", Architecture(_EXPERTS, generates=False)),
    **_each(
        "bert eurobert gemma-embedding jina-bert-v2 jina-bert-v3 llama-embed modern-bert neo-bert "
        "nomic-bert t5 t5encoder",
        Architecture(_ENCODER, generates=False),
    ),
    "nomic-bert-moe": Architecture(
        {**_ENCODER, **_EXPERTS, "moe_every_n_layers": 2}, generates=False
    ),
    "pockettts": Architecture(generates=False),
    "qwen3tts": Architecture({**_WIDTH_64, **_SECTIONS}, n_vocab=3100, generates=False),
    "wavtokenizer-dec": Architecture(
        {
            "block_count": 6,
            "features_length": 64,
            "posnet.embedding_length": 64,
            "posnet.block_count": 6,
            "convnext.embedding_length": 64,
            "convnext.block_count": 2,
            "attention.group_norm_epsilon": 1e-5,
            "attention.group_norm_groups": 8,
        },
        generates=False,
    ),
    "dflash": Architecture({"target_layers": [0, 1, 2]}, generates=False),
    "eagle3": Architecture(
        {"target_layers": [0, 1, 2], "target_hidden_size": 128},
        omit=r"^rope_freqs|^output\.|^token_embd",
        generates=False,
    ),
}

FAMILIES: Mapping[str, Mapping[str, Architecture]] = {
    "attention to the whole text in every layer": _ATTENTION,
    "a window in some of the layers": _WINDOWS,
    "a recurrent state in some of the layers": _HYBRID,
    "a latent cache": _LATENT_CACHE,
    "an indexer that chooses what is read": _INDEXED,
    "a recurrent state in every layer": _RECURRENT,
    "encoders, diffusion, speech, pictures and drafts": _OTHER,
}

ARCHITECTURES: Mapping[str, Architecture] = {
    name: entry for family in FAMILIES.values() for name, entry in family.items()
}

# of the weights, where 0 does not do: in a mixture of experts some seeds choose an expert by a
# hair, and then two ways to compute the same thing choose differently
SEEDS: Mapping[str, int] = {
    "arctic": 1,
    "bailingmoe": 1,
    "bitnet": 3,
    "cohere2moe": 1,
    "deepseek": 2,
    "dots1": 1,
    "dots3note": 1,
    "gpt-oss": 1,
    "grovemoe": 1,
    "laguna": 1,
    "minimax-m3": 1,
    "phimoe": 1,
    "qwen3vlmoe": 6,
}

# what llama.cpp names besides, and why there is no model of it here
NOT_MADE: Mapping[str, str] = {
    "clip": "no model by itself: it belongs to another one's file",
    "gemma4-assistant": "a draft: it reads the cells of the model that it drafts for",
    "gptj": "llama.cpp has its name alone",
    "plm": "llama.cpp gives up on every model of it as soon as it reads two tokens at once",
}
