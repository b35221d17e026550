"""The dials of a bounded generation: what a user can set, and which policies that names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from scope_cpp.engine.arguments import check_fields
from scope_cpp.engine.budget import parse_budget
from scope_cpp.engine.context_params import FLASH_ATTN, ContextParams
from scope_cpp.engine.kv_types import kv_type, needs_flash
from scope_cpp.engine.ranges import INT32_MAX, Range
from scope_cpp.errors import UsageError, WrongValue
from scope_cpp.near import valid_are
from scope_cpp.policies import (
    decode_policies,
    find_decode,
    find_prefill,
    make_decode,
    make_prefill,
    parse_options,
    split_options,
)

if TYPE_CHECKING:
    from scope_cpp.policies import DecodePolicy, PrefillPolicy

GRANULARITIES = ("head", "cell")

# The closest to the full cache in the mean of what was measured on real models: docs/quality.md.
DEFAULT_POLICY = "scope-retrieval"

# Cells of a conversation without a budget: at most half of the free memory
CHAT_CELLS = 8192

# Whole numbers that llama.cpp takes; each thread has buffers of its own
_NUMBERS = {
    "n_batch": Range(int, 1, INT32_MAX),
    "n_ubatch": Range(int, 1, INT32_MAX),
    "n_threads": Range(int, 0, 4096),
    "n_threads_batch": Range(int, 0, 4096),
}


@dataclass(frozen=True)
class Settings:
    """What a user can set; every field has a default.

    Attributes
    ----------
    policy, prefill
        Names of the decode and of the prefill policy; ``None`` is `DEFAULT_POLICY`.
    granularity
        ``"head"``: each layer and KV head chooses for itself. ``"cell"``: one choice for all, from
        scores pooled by their maximum.
    options
        ``key=value`` for fields of the policies.
    budget
        See `scope_cpp.engine.budget`; ``None`` is the prompt and 1024 cells.
    ctx_size
        Longest prompt and output together; ``None``: the prompt and the longest output.
    type_k, type_v
        KV cache types.
    n_batch, n_ubatch, n_threads, n_threads_batch, flash_attn, offload_kqv
        As llama.cpp's; 0 threads: one for each physical core.
    """

    policy: str | None = None
    prefill: str = "full"
    granularity: str = "head"
    options: tuple[str, ...] = ()
    budget: str | int | None = None
    ctx_size: int | None = None
    type_k: str = "f16"
    type_v: str = "f16"
    n_batch: int = ContextParams.n_batch
    n_ubatch: int = ContextParams.n_ubatch
    n_threads: int = ContextParams.n_threads
    n_threads_batch: int = ContextParams.n_threads_batch
    flash_attn: str = ContextParams.flash_attn
    offload_kqv: bool = ContextParams.offload_kqv

    def __post_init__(self) -> None:
        """Check what needs no model."""
        for name, allowed in _NUMBERS.items():
            object.__setattr__(self, name, allowed.check(name, getattr(self, name)))
        if isinstance(self.options, (str, Mapping)):
            given = repr(self.options)[:60]
            raise WrongValue("options", f"is {given}: give a list of texts, such as ['beta1=48']")
        check_fields(self, but=(*_NUMBERS, "budget"))
        parse_budget(self.budget)
        kv_type(self.type_k), kv_type(self.type_v)
        if self.granularity not in GRANULARITIES:
            valid = valid_are(self.granularity, GRANULARITIES)
            raise UsageError(f"unknown granularity {self.granularity!r}{valid}")
        if self.flash_attn not in FLASH_ATTN:
            raise UsageError(
                f"--flash-attn {self.flash_attn}: unknown{valid_are(self.flash_attn, FLASH_ATTN)}"
            )
        if self.flash_attn == "off" and needs_flash(self.type_v):
            raise UsageError(
                f"-ctv {self.type_v} needs flash attention: leave -fa off out, or give -ctv f16"
            )
        self.policies()

    def policies(self) -> tuple[DecodePolicy, PrefillPolicy]:
        """Build both policies, their sizes not resolved yet.

        Raises
        ------
        UsageError
            For an unknown name, key or value; the message lists the valid ones.
        """
        name = self.policy or DEFAULT_POLICY
        decode, prefill = find_decode(name), find_prefill(self.prefill)
        for_decode, for_prefill = split_options(
            decode, prefill, parse_options(self.options), decode_policies
        )
        policies = make_decode(name, for_decode), make_prefill(self.prefill, for_prefill)
        if self.granularity == "cell":
            require_even(
                "--granularity cell makes one choice for all: give --granularity head", *policies
            )
        if policies[1].uneven and policies[0].compares_layers:
            raise UsageError(
                f"{name} as it is set compares the rows of all layers, which hold different "
                f"ones after --prefill {self.prefill}: choose another one"
            )
        return policies

    def context_params(self, n_cells: int) -> ContextParams:
        """Return the parameters of a context of `n_cells`."""
        return ContextParams(
            n_cells=n_cells,
            type_k=kv_type(self.type_k).ggml_type,
            type_v=kv_type(self.type_v).ggml_type,
            n_batch=self.n_batch,
            n_ubatch=self.n_ubatch,
            n_threads=self.n_threads,
            n_threads_batch=self.n_threads_batch,
            flash_attn=self.flash_attn,
            offload_kqv=self.offload_kqv,
        )


def require_even(why: str, decode: DecodePolicy, prefill: PrefillPolicy) -> None:
    """Refuse policies that keep other numbers of rows in other layers, and say `why`.

    Raises
    ------
    UsageError
        If one of them does.
    """
    for flag, policy in (("--policy", decode), ("--prefill", prefill)):
        if policy.uneven:
            raise UsageError(
                f"{flag} {policy.name} gives each layer a number of rows of its own, and {why}"
            )
