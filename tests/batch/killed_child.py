"""A batch that kills its own process: ``killed_child ROWS OUTPUT WHERE N [ordered]``.

WHERE is ``step`` (before the N-th step of the engine), ``write`` (in the middle of writing the N-th
line, of the output or of early ones), ``written`` (after it, before anybody knows), ``replace``
(before the N-th file is put in its place) or ``remove`` (before the N-th file is deleted).
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

from scope_cpp import files
from scope_cpp.batch import line_file
from scope_cpp.batch.runner import EngineRunner
from scope_cpp.engine.model import Model
from scope_cpp.reference.shipped import MODEL
from tests.batch.drive import batch


def main() -> None:
    rows, out, where, number, *ordered = sys.argv[1:]
    left = int(number)

    def counted(place: str) -> bool:
        """Whether the time has come."""
        nonlocal left
        left -= where == place
        return where == place and left == 0

    def kill() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    write, step = os.write, EngineRunner.step
    replace, remove = os.replace, line_file.LineFile.remove

    def half_write(descriptor: int, data: bytes) -> int:
        if counted("write"):
            write(descriptor, data[: len(data) // 2])
            kill()
        n = write(descriptor, data)
        if counted("written"):
            kill()
        return n

    def stepped(runner: EngineRunner) -> Any:
        if counted("step"):
            kill()
        return step(runner)

    def replaced(*args: Any) -> None:
        if counted("replace"):
            kill()
        replace(*args)

    def removed(file: line_file.LineFile) -> None:
        if counted("remove"):
            kill()
        remove(file)

    line_file.os.write = half_write  # type: ignore[attr-defined]
    EngineRunner.step = stepped  # type: ignore[method-assign]
    files.os.replace = replaced  # type: ignore[attr-defined]
    line_file.LineFile.remove = removed  # type: ignore[method-assign]
    with Model.load(MODEL) as model:
        batch(model, Path(rows), Path(out), ordered=bool(ordered))


if __name__ == "__main__":
    main()
