"""Policies: which cells of the KV cache stay. Pure NumPy, no model, no state.

To add one, write one file, one line in a table below (or an entry point, from another package),
and one row in the table of the tests. CONTRIBUTING.md has the five steps.
"""

from __future__ import annotations

from scope_cpp.policies.base import DecodePolicy, Policy, PrefillPolicy, Step, View, option
from scope_cpp.policies.full import Full, FullPrefill
from scope_cpp.policies.gkv import GKV
from scope_cpp.policies.h2o import H2O
from scope_cpp.policies.h2o_prefill import H2OPrefill
from scope_cpp.policies.openvino import OpenVINO
from scope_cpp.policies.pyramidinfer import PyramidInfer, PyramidInferPrefill
from scope_cpp.policies.pyramidkv import PyramidKV
from scope_cpp.policies.registry import (
    Registry,
    example_options,
    parse_options,
    split_options,
    valid_options,
)
from scope_cpp.policies.rkv import RKV
from scope_cpp.policies.scope_adaptive import ScopeAdaptive
from scope_cpp.policies.scope_discontinuous import ScopeDiscontinuous
from scope_cpp.policies.scope_foresight import ScopeForesight
from scope_cpp.policies.scope_slide import ScopeSlide
from scope_cpp.policies.snapkv import SnapKV
from scope_cpp.policies.streaming_llm import StreamingLLM
from scope_cpp.policies.streaming_prefill import StreamingLLMPrefill
from scope_cpp.policies.tova import Tova
from scope_cpp.policies.vatp import VATP

__all__ = [
    "DecodePolicy",
    "Policy",
    "PrefillPolicy",
    "Step",
    "View",
    "decode_policies",
    "example_options",
    "find_decode",
    "find_prefill",
    "make_decode",
    "make_prefill",
    "option",
    "parse_options",
    "prefill_policies",
    "split_options",
    "valid_options",
]

_DECODE: Registry[DecodePolicy] = Registry(
    kind="policy",
    group="scope_cpp.decode_policies",
    base=DecodePolicy,
    builtin=(
        Full,
        StreamingLLM,
        H2O,
        ScopeSlide,
        ScopeForesight,
        ScopeAdaptive,
        ScopeDiscontinuous,
        Tova,
        VATP,
        RKV,
        GKV,
        OpenVINO,
        PyramidInfer,
    ),
)
_PREFILL: Registry[PrefillPolicy] = Registry(
    kind="prefill policy",
    group="scope_cpp.prefill_policies",
    base=PrefillPolicy,
    builtin=(FullPrefill, H2OPrefill, SnapKV, StreamingLLMPrefill, PyramidKV, PyramidInferPrefill),
)

decode_policies = _DECODE.classes
prefill_policies = _PREFILL.classes
find_decode = _DECODE.find
find_prefill = _PREFILL.find
make_decode = _DECODE.make
make_prefill = _PREFILL.make
