"""Which attention a context is created with: the fused one or the plain one.

llama.cpp takes flash attention wherever it runs. On a CPU the plain attention decodes faster, and
leaves the softmax weights that the policies read. It takes memory instead: for each token of a
physical batch, 4 bytes for every query head and cell. So the batches are made smaller there, which
reads a prompt as fast and takes less memory than flash attention does with batches of 512.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from scope_cpp.engine.context_params import PLAIN_UBATCH
from scope_cpp.engine.kv_types import needs_flash
from scope_cpp.native.library import llama_cpp

if TYPE_CHECKING:
    from scope_cpp.engine.model import Model
    from scope_cpp.engine.settings import Settings


def resolve(settings: Settings, model: Model, *, bounded: bool) -> Settings:
    """Replace ``flash_attn="auto"`` by ``"off"`` where that is faster, with smaller batches.

    That is where cells are evicted (`bounded`), the cache lies on the CPU, and its V is not
    quantized, which would need flash attention. Everywhere else llama.cpp decides.
    """
    on_gpu = settings.offload_kqv and model.offloaded and llama_cpp.llama_supports_gpu_offload()
    plain = bounded and not on_gpu and not needs_flash(settings.type_v)
    if settings.flash_attn == "auto" and plain:
        n_ubatch = min(settings.n_ubatch, PLAIN_UBATCH)
        return replace(settings, flash_attn="off", n_ubatch=n_ubatch)
    return settings
