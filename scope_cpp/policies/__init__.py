"""Policies: which cells of the KV cache stay. Pure NumPy, no model, no state.

To add one, write one file, one line in a table below (or an entry point, from another package),
and one row in the table of the tests. CONTRIBUTING.md has the five steps.

A policy's module, and NumPy, are imported when the policy is asked for: help shows names only.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from scope_cpp.policies.registry import (
    Registry,
    example_options,
    parse_options,
    split_options,
    valid_options,
)

if TYPE_CHECKING:
    from scope_cpp.policies.base import DecodePolicy, Policy, PrefillPolicy, Step, View, option

_OF_BASE = ("DecodePolicy", "Policy", "PrefillPolicy", "Step", "View", "option")

__all__ = [
    "DecodePolicy",
    "Policy",
    "PrefillPolicy",
    "Step",
    "View",
    "decode_names",
    "decode_policies",
    "example_options",
    "find_decode",
    "find_prefill",
    "make_decode",
    "make_prefill",
    "option",
    "parse_options",
    "prefill_names",
    "prefill_policies",
    "split_options",
    "valid_options",
]

_DECODE: Registry[DecodePolicy] = Registry(
    kind="policy",
    group="scope_cpp.decode_policies",
    base="DecodePolicy",
    builtin={
        "full": "full:Full",
        "streaming-llm": "streaming_llm:StreamingLLM",
        "h2o": "h2o:H2O",
        "scope-slide": "scope_slide:ScopeSlide",
        "scope-foresight": "scope_foresight:ScopeForesight",
        "scope-retrieval": "scope_retrieval:ScopeRetrieval",
        "scope-adaptive": "scope_adaptive:ScopeAdaptive",
        "scope-discontinuous": "scope_discontinuous:ScopeDiscontinuous",
        "tova": "tova:Tova",
        "vatp": "vatp:VATP",
        "r-kv": "rkv:RKV",
        "g-kv": "gkv:GKV",
        "openvino": "openvino:OpenVINO",
        "pyramidinfer": "pyramidinfer:PyramidInfer",
    },
    flag="--policy",
    beside=lambda: _PREFILL,
)
_PREFILL: Registry[PrefillPolicy] = Registry(
    kind="prefill policy",
    group="scope_cpp.prefill_policies",
    base="PrefillPolicy",
    builtin={
        "full": "full:FullPrefill",
        "h2o": "h2o_prefill:H2OPrefill",
        "snapkv": "snapkv:SnapKV",
        "streaming-llm": "streaming_prefill:StreamingLLMPrefill",
        "pyramidkv": "pyramidkv:PyramidKV",
        "pyramidinfer": "pyramidinfer:PyramidInferPrefill",
    },
    flag="--prefill",
    beside=lambda: _DECODE,
)

decode_names = _DECODE.names
prefill_names = _PREFILL.names
decode_policies = _DECODE.classes
prefill_policies = _PREFILL.classes
find_decode = _DECODE.find
find_prefill = _PREFILL.find
make_decode = _DECODE.make
make_prefill = _PREFILL.make


def __getattr__(name: str) -> Any:
    if name not in _OF_BASE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.base"), name)
