"""A file is tried out in a process of its own before it is loaded here.

llama.cpp ends the process (``GGML_ASSERT``, an exception that nobody catches) or corrupts its
memory where a file is not as it expects one to be, and no check of ours knows all that it expects.
So a process of its own goes through everything that can end one (patches/llama-trial.cpp) first.
Files that passed are remembered, see `known_files`.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from scope_cpp import child
from scope_cpp.engine import known_files
from scope_cpp.engine.gguf_header import Header
from scope_cpp.engine.load_failure import load_failure
from scope_cpp.engine.memory import host_free_memory
from scope_cpp.engine.split_name import part_paths
from scope_cpp.engine.threads import default_threads
from scope_cpp.engine.trial_worker import ABORTED, OK, REFUSED, SHAPES
from scope_cpp.errors import ScopeError
from scope_cpp.native.library import llama_cpp

_WORKER = Path(__file__).with_name("trial_worker.py")

# of CPU time, about twelve times what good files take: small ones 0.05 s, 150,000 tokens 0.3 s
_SECONDS, _SECONDS_PER_HEADER_BYTE, _SECONDS_PER_BYTE = 0.6, 2e-6, 2e-8
# of any time: what is waited for is a disk, which may be slow
_WAIT, _WAIT_PER_BYTE = 60.0, 5e-7
_BYTES, _BYTES_PER_HEADER_BYTE = 2 << 30, 64
_LARGE = 64 << 20  # a smaller file is not worth a second thread

# no backend may take memory of a device: the process that uses it is still to come
_NO_DEVICES = {
    "CUDA_VISIBLE_DEVICES": "-1",
    "HIP_VISIBLE_DEVICES": "-1",
    "GGML_VK_VISIBLE_DEVICES": "",
    "OMP_WAIT_POLICY": "passive",
}


@dataclass(frozen=True)
class Ending:
    """How a trial ended.

    Attributes
    ----------
    code
        Exit code of the process, or a signal's number, negated.
    step
        What it was doing last, such as "its vocabulary is used".
    reason
        Last words of llama.cpp, if it had any.
    errors
        Error lines of its log.
    """

    code: int
    step: str
    reason: str
    errors: tuple[str, ...]


def require(header: Header, *, weights: bool) -> None:
    """Try a file out unless it is known to be good.

    Parameters
    ----------
    header
        Of the file, or of the first part of a split one.
    weights
        Load its weights and decode too; without, nothing is read but the header. A file that does
        not fit into the free memory is not decoded either.

    Raises
    ------
    ScopeError
        If llama.cpp refuses it, gives up on it, crashes or does not come to an end.
    """
    parts = part_paths(header.path)
    size = sum(part.stat().st_size for part in parts if part.exists())
    weights = weights and _fits(size)
    if known_files.is_known(parts, weights):
        return
    seconds = _SECONDS + _SECONDS_PER_HEADER_BYTE * header.n_bytes
    n_threads = 0
    if weights:
        seconds += _SECONDS_PER_BYTE * size
        n_threads = default_threads() if size > _LARGE else 1
    n_bytes = _BYTES + _BYTES_PER_HEADER_BYTE * header.n_bytes
    ending = run(header.path, n_threads, seconds, n_bytes)
    if ending.code not in (OK, SHAPES):
        raise ScopeError(explain(header.path, ending, seconds))
    known_files.remember(parts, weights and ending.code == OK)


def run(path: Path, n_threads: int, seconds: float, n_bytes: int) -> Ending:
    """Try a file out within `seconds` of CPU time and `n_bytes` of memory.

    Raises
    ------
    ScopeError
        If the process can't be started.
    """
    library = str(llama_cpp.llama_cpp._lib._name)
    limits = [str(n_threads), str(seconds), str(n_bytes)]
    command = child.command(_WORKER, library, os.fspath(path), *limits, site=False)
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, **_NO_DEVICES},
            start_new_session=True,  # Ctrl-C is for this process
        )
    except OSError as err:
        raise ScopeError(
            f"{path} is not loaded: {sys.executable or 'Python'} cannot be started to try it out "
            f"first ({err.strerror})"
        ) from None
    with process:
        try:
            out, log = process.communicate(timeout=_WAIT + _WAIT_PER_BYTE * path.stat().st_size)
        except subprocess.TimeoutExpired:
            process.kill()
            return Ending(-signal.SIGPROF, "it is read", "", ())
        except BaseException:  # Ctrl-C
            process.kill()
            raise
    lines = out.decode(errors="replace").splitlines()
    steps = [line for line in lines if not line.startswith("! ")]
    reasons = [line[2:] for line in lines if line.startswith("! ")]
    return Ending(
        process.returncode,
        steps[-1] if steps else "it is read",
        reasons[-1] if reasons else "",
        tuple(log.decode(errors="replace").splitlines()),
    )


def _fits(size: int) -> bool:
    try:
        return size <= host_free_memory()
    except OSError:
        return False


def explain(path: Path, ending: Ending, seconds: float) -> str:
    """Say in one line why a file is not loaded."""
    if ending.code == REFUSED:
        return load_failure(path, ending.errors)
    if ending.code == ABORTED:
        what = f"llama.cpp gives up while {ending.step} ({ending.reason})"
    elif ending.code == -signal.SIGPROF:
        what = f"llama.cpp is not done after {seconds:.1f} s while {ending.step}"
    elif ending.code < 0:
        what = f"llama.cpp crashes while {ending.step} ({signal.Signals(-ending.code).name})"
    else:
        last = ending.errors[-1] if ending.errors else f"exit code {ending.code}"
        return f"{path} is not loaded: it can't be tried out first ({last})"
    return f"{path} is damaged: {what}; download it again, or convert it anew"
