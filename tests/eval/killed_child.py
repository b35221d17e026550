"""A run that kills its own process: ``python -m tests.eval.killed_child MODEL FOLDER WHERE N``.

WHERE is ``token`` (at the N-th token that is computed) or ``write`` (in the middle of writing the
N-th prediction).
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

from scope_cpp.engine.model import Model
from scope_cpp.eval import folder, sample
from scope_cpp.eval import run as run_module
from tests.eval.counting import Counting, run


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def main() -> None:
    path, out, where, number = sys.argv[1:]
    left = int(number)
    tick, write = sample._Clock.tick, os.write

    def counted_tick(clock: Any) -> None:
        nonlocal left
        left -= where == "token"
        if where == "token" and left == 0:
            kill()
        tick(clock)

    def half_write(descriptor: int, data: bytes) -> int:
        nonlocal left
        left -= where == "write"
        if where == "write" and left == 0:
            write(descriptor, data[: len(data) // 2])
            kill()
        return write(descriptor, data)

    run_module.find = lambda name: Counting()  # type: ignore[assignment]
    sample._Clock.tick = counted_tick  # type: ignore[method-assign]
    folder.os.write = half_write  # type: ignore[attr-defined]
    with Model.load(path) as model:
        run(model, Path(out), jobs=2)


if __name__ == "__main__":
    main()
