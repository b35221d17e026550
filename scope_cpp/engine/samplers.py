"""llama.cpp's samplers: the tokens that they take, and when they are freed."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scope_cpp.native.library import llama_cpp
from scope_cpp.native.lifetime import own

_TOKEN_DATA = np.dtype([("id", np.int32), ("logit", np.float32), ("p", np.float32)])


def candidates(logits: NDArray[np.float32], first: int = 0) -> NDArray[Any]:
    """Return tokens from `first` on with these logits; fields ``id``, ``logit`` and ``p``."""
    tokens = np.zeros(logits.size, _TOKEN_DATA)
    tokens["id"] = np.arange(first, first + logits.size)
    tokens["logit"] = logits
    return tokens


def token_array(tokens: NDArray[Any]) -> Any:
    """Return the native view of `tokens`, which samplers change in place."""
    data = ctypes.cast(tokens.ctypes.data, ctypes.POINTER(llama_cpp.llama_token_data))
    return llama_cpp.llama_token_data_array(data=data, size=tokens.size, selected=-1, sorted=False)


def owned(sampler: Any, *needs: object) -> Any:
    """Have a native sampler freed with the last reference to it; it keeps what it `needs`."""
    kind, address = type(sampler), ctypes.addressof(sampler.contents)
    return own(sampler, lambda: llama_cpp.llama_sampler_free(ctypes.cast(address, kind)), *needs)
