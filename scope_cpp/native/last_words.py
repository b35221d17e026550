"""Typed binding of ``llama_trial_on_abort`` in ``llama-trial.h``."""

from __future__ import annotations

import ctypes

from scope_cpp.errors import ScopeError
from scope_cpp.native.library import library_path, llama_cpp

_STDERR = 2
_PREFIX = b"error: llama.cpp gave up, the model's file may be damaged: "

_lib = llama_cpp.llama_cpp._lib


# void llama_trial_on_abort(int32_t fd, const char * prefix, int32_t status);
def exit_on_abort() -> None:
    """Exit with 1 and one line on stderr where llama.cpp would abort this process.

    For processes that are ours alone: an application that embeds Python may want its core file.

    Raises
    ------
    ScopeError
        If the library is of an older build.
    """
    try:
        function = _lib.llama_trial_on_abort
    except AttributeError:
        raise ScopeError(
            f"the libllama in {library_path()} is of an older build: reinstall scope-cpp"
        ) from None
    function.argtypes, function.restype = [ctypes.c_int32, ctypes.c_char_p, ctypes.c_int32], None
    function(_STDERR, _PREFIX, ScopeError.exit_code)
