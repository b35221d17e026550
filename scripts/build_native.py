"""Build the native part with CMake, outside pip.

``build_native.py --into scope_cpp/_vendor`` refreshes the copy that an editable install uses.
``build_native.py --stock --into build/stock`` builds llama.cpp as it is, with the same flags,
for the tests that compare the two. ``build_native.py --sanitize --into build/sanitize`` builds
what ``scripts/sanitize`` runs the tests with. ``build_native.py --rpc --into build/rpc`` builds the
backend that ``pytest --backend rpc`` runs the tests on, which goes beside any of them.

All but the sanitized one build in the folder that pip builds in, where each compiles only what
differs. ``--apart NAME`` builds in ``build/cmake-NAME``, which remembers other options: a GPU's.
"""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
from itertools import takewhile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

# every finding is reported and the program goes on, so that one run shows them all; assertions of
# the C++ library check each index of a vector, while ggml's, which no release has, do not all hold:
# ggml_gallocr_init_tensor's does not for a phi3 with a quantized V cache, of stock llama.cpp too
SANITIZE = (
    "-O1 -g1 -fno-omit-frame-pointer -fsanitize=address,undefined -fsanitize-recover=address"
    " -DNDEBUG -D_GLIBCXX_ASSERTIONS"
)


class BuildError(Exception):
    """The build can't be done; the message is one line for the user."""


def tool(name: str) -> str:
    """Return the path of a build tool: the one beside this Python, else the one on PATH."""
    found = shutil.which(name, path=str(Path(sys.executable).parent)) or shutil.which(name)
    if found is None:
        raise BuildError(f"{name} was not found: python -m pip install {name}")
    return found


def compilers() -> dict[str, str]:
    """Return CC and CXX as pip's build sets them, to those of this Python: others compile anew."""
    found = {}
    for name in ("CC", "CXX"):
        words = shlex.split(sysconfig.get_config_var(name) or "")
        found[name] = " ".join(takewhile(lambda word: not word.startswith("-"), words))
    return {name: compiler for name, compiler in found.items() if compiler}


def run(*command: str) -> None:
    """Run one build step with its output shown."""
    if subprocess.run(command, env=compilers() | os.environ).returncode != 0:
        raise BuildError(f"{Path(command[0]).name} failed: the reason is in its output before this")


def build(into: Path, kind: str, defines: list[str], apart: str | None = None) -> None:
    """Configure, build and install below `into` (``llama_cpp/`` with ``lib/`` inside).

    Parameters
    ----------
    into
        Folder to install into.
    kind
        ``"stock"``: without patches; ``"sanitize"``: with checks of every access; ``"rpc"``: one
        library, the backend that computes in another process; else ``""``.
    defines
        CMake options, ``NAME=VALUE``.
    apart
        Name of a build folder of its own.

    Raises
    ------
    BuildError
        If a tool is missing or a step fails.
    """
    cmake = tool("cmake")
    if kind == "sanitize":
        apart = "sanitize"
    build_dir = ROOT / "build" / (f"cmake-{apart}" if apart else "cmake")
    options = [
        f"-DCMAKE_BUILD_TYPE={'Sanitize' if kind == 'sanitize' else 'Release'}",
        f"-DCMAKE_MAKE_PROGRAM={tool('ninja')}",
        f"-DPython_EXECUTABLE={sys.executable}",
        f"-DSCOPE_STOCK={'ON' if kind == 'stock' else 'OFF'}",
        f"-DSCOPE_INSTALL_DIR={into.resolve()}",
        "-DSKBUILD_STATE=",  # pip's, which the folder remembers
        *(f"-D{define}" for define in defines),
    ]
    if kind == "sanitize":
        options += [f"-DCMAKE_{language}_FLAGS_SANITIZE={SANITIZE}" for language in ("C", "CXX")]
    run(cmake, "-G", "Ninja", "-S", str(ROOT), "-B", str(build_dir), *options)
    if kind == "rpc":
        run(cmake, "--build", str(build_dir), "--target", "ggml-rpc")
        into.mkdir(parents=True, exist_ok=True)
        for library in (build_dir / "rpc").glob("*ggml-rpc.*"):
            shutil.copy2(library, into)
        return
    run(cmake, "--build", str(build_dir))
    run(cmake, "--install", str(build_dir))


def main() -> int:
    """Run from the command line; return the exit status."""
    parser = argparse.ArgumentParser(description="Build the native part with CMake, outside pip.")
    parser.add_argument("--into", type=Path, required=True, help="folder to install into")
    kinds = parser.add_mutually_exclusive_group()
    kinds.add_argument("--stock", dest="kind", action="store_const", const="stock", default="",
                       help="build llama.cpp without patches")  # fmt: skip
    kinds.add_argument("--sanitize", dest="kind", action="store_const", const="sanitize",
                       help="build with AddressSanitizer and UBSan")  # fmt: skip
    kinds.add_argument("--rpc", dest="kind", action="store_const", const="rpc",
                       help="build the backend that computes in another process")  # fmt: skip
    parser.add_argument("--apart", metavar="NAME", help="build in a folder of its own")
    parser.add_argument("-D", dest="defines", action="append", default=[], metavar="NAME=VALUE",
                        help="CMake option, for example -D GGML_CUDA=ON")  # fmt: skip
    args = parser.parse_args()
    try:
        build(args.into, args.kind, args.defines, args.apart)
    except (BuildError, OSError) as error:
        print(f"scope-cpp: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
