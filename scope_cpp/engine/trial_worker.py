"""The process that tries a file out, started by `trial` as a script.

Arguments: the library, the file, threads to decode with (0: do not), seconds of CPU time, bytes of
memory. Each step is a line on stdout, and so are the last words, marked with "! "; llama.cpp's
errors go to stderr.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import signal
import sys

STDOUT = 1
OK, SHAPES, REFUSED, ABORTED = 0, 10, 11, 12


def main() -> None:
    """Try the file, and exit with one of the codes above unless the system ends the process."""
    library, path, n_threads, seconds, n_bytes = sys.argv[1:]
    lib = ctypes.CDLL(library)
    if not hasattr(lib, "ggml_backend_cpu_reg"):
        from scope_cpp.native import backends  # takes a while, and few builds need it

        backends.load(lib, os.path.dirname(library))
    lib.llama_trial_on_abort(STDOUT, b"! ", ABORTED)
    limit(float(seconds), int(n_bytes))
    sys.exit(lib.llama_trial_run(os.fsencode(path), int(n_threads), STDOUT))


def limit(seconds: float, n_bytes: int) -> None:
    """Let the system stop what takes more than that, and write no core file."""
    signal.setitimer(signal.ITIMER_PROF, seconds)
    with contextlib.suppress(ValueError, OSError):  # a lower limit is in force already
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_DATA, (n_bytes, n_bytes))


if __name__ == "__main__":
    main()
