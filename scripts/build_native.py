"""Build the native part with CMake, outside pip.

``build_native.py --into scope_cpp/_vendor`` refreshes the copy that an editable install uses.
``build_native.py --stock --into build/stock`` builds llama.cpp as it is, with the same flags,
for the tests that compare the two.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


class BuildError(Exception):
    """The build can't be done; the message is one line for the user."""


def tool(name: str) -> str:
    """Return the path of a build tool: the one beside this Python, else the one on PATH."""
    found = shutil.which(name, path=str(Path(sys.executable).parent)) or shutil.which(name)
    if found is None:
        raise BuildError(f"{name} was not found: python -m pip install {name}")
    return found


def run(*command: str) -> None:
    """Run one build step with its output shown."""
    if subprocess.run(command).returncode != 0:
        raise BuildError(f"{Path(command[0]).name} failed: the reason is in its output before this")


def build(into: Path, build_dir: Path, stock: bool, defines: list[str]) -> None:
    """Configure, build and install below `into` (``llama_cpp/`` with ``lib/`` inside).

    Raises
    ------
    BuildError
        If a tool is missing or a step fails.
    """
    cmake = tool("cmake")
    options = [
        "-DCMAKE_BUILD_TYPE=Release",
        f"-DCMAKE_MAKE_PROGRAM={tool('ninja')}",
        f"-DPython_EXECUTABLE={sys.executable}",
        f"-DSCOPE_STOCK={'ON' if stock else 'OFF'}",
        f"-DSCOPE_INSTALL_DIR={into.resolve()}",
        *(f"-D{define}" for define in defines),
    ]
    run(cmake, "-G", "Ninja", "-S", str(ROOT), "-B", str(build_dir), *options)
    run(cmake, "--build", str(build_dir))
    run(cmake, "--install", str(build_dir))


def main() -> int:
    """Run from the command line; return the exit status."""
    parser = argparse.ArgumentParser(description="Build the native part with CMake, outside pip.")
    parser.add_argument("--into", type=Path, required=True, help="folder to install into")
    parser.add_argument("--stock", action="store_true", help="build llama.cpp without patches")
    parser.add_argument("-D", dest="defines", action="append", default=[], metavar="NAME=VALUE",
                        help="CMake option, for example -D GGML_CUDA=ON")  # fmt: skip
    args = parser.parse_args()
    build_dir = ROOT / "build" / ("cmake-stock" if args.stock else "cmake")
    try:
        build(args.into, build_dir, args.stock, args.defines)
    except (BuildError, OSError) as error:
        print(f"scope-cpp: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
