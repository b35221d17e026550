"""Get the pinned llama.cpp and its Python bindings from the package index.

The source distribution of llama-cpp-python carries both, so that one version and one
checksum pin the native source and the ctypes structures that must agree with it.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

VERSION = "0.3.36"
SHA256 = "832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e"
SDIST = f"llama_cpp_python-{VERSION}.tar.gz"
LOCAL_COPY = "SCOPE_LLAMA_SDIST"
STAMP = ".scope-unpacked"
LLAMA = "vendor/llama.cpp"
WANTED = (
    "LICENSE.md",
    "llama_cpp",
    f"{LLAMA}/CMakeLists.txt",
    f"{LLAMA}/LICENSE",
    f"{LLAMA}/cmake",
    f"{LLAMA}/ggml",
    f"{LLAMA}/include",
    f"{LLAMA}/src",
    f"{LLAMA}/vendor",
)


class FetchError(Exception):
    """The pinned source can't be had; the message is one line for the user."""


def log(message: str) -> None:
    """Write one line of the build log."""
    print(f"scope-cpp: {message}", flush=True)


def file_sha256(path: Path) -> str:
    """Return the hexadecimal SHA-256 of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def check(path: Path, sha256: str = SHA256) -> None:
    """Raise `FetchError` unless the file has the pinned checksum."""
    found = file_sha256(path)
    if found != sha256:
        raise FetchError(
            f"{path} has sha256 {found}, but llama-cpp-python {VERSION} has {sha256}:"
            " remove that file, or use an index that serves the original"
        )


def download(folder: Path) -> Path:
    """Download the source distribution with pip, from the index that pip is set up for."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    command += ["--no-binary", "llama-cpp-python", "--dest", str(folder)]
    if importlib.util.find_spec("scikit_build_core"):  # what pip needs to read its metadata
        command.append("--no-build-isolation")
    result = subprocess.run(
        [*command, f"llama-cpp-python=={VERSION}"], text=True, capture_output=True
    )
    path = folder / SDIST
    if result.returncode != 0 or not path.is_file():
        lines = [line for line in result.stderr.splitlines() if "ERROR" in line]
        raise FetchError(
            f"pip could not download llama-cpp-python {VERSION} ({' '.join(lines[-1:])}): check the"
            f" network and the package index, or set {LOCAL_COPY} to a copy of {SDIST}"
        )
    return path


def obtain(cache: Path) -> Path:
    """Return the path of a checked source distribution: the user's, the cached or a new one."""
    local = os.environ.get(LOCAL_COPY)
    if local:
        path = Path(local)
        if not path.is_file():
            raise FetchError(f"{LOCAL_COPY}={local} is not a file: set it to a copy of {SDIST}")
        log(f"using {path} ({LOCAL_COPY})")
        check(path)
        return path
    cached = cache / SDIST
    if cached.is_file() and file_sha256(cached) == SHA256:
        log(f"using {cached}")
        return cached
    log(f"downloading llama-cpp-python {VERSION}, which carries llama.cpp")
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as folder:
        path = download(Path(folder))
        check(path)
        path.replace(cached)
    return cached


def wanted_members(archive: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """Yield the plain files the build needs, named without the archive's top folder."""
    for member in archive:
        parts = PurePosixPath(member.name).parts[1:]
        name = "/".join(parts)
        if not member.isfile() or ".." in parts or name.startswith("llama_cpp/server/"):
            continue
        if any(name == want or name.startswith(want + "/") for want in WANTED):
            member.name = name
            yield member


def unpack(sdist: Path, into: Path) -> None:
    """Unpack what the build needs; a folder left half-written by an earlier try is replaced."""
    log(f"unpacking into {into}")
    if into.exists():
        shutil.rmtree(into)
    with tarfile.open(sdist) as archive:
        for member in wanted_members(archive):
            target = into / member.name
            target.parent.mkdir(parents=True, exist_ok=True)
            content = archive.extractfile(member)
            assert content is not None  # a plain file
            with content, target.open("wb") as file:
                shutil.copyfileobj(content, file)
    (into / STAMP).write_text(SHA256 + "\n")


def fetch(into: Path, cache: Path) -> None:
    """Make `into` hold the pinned source; do nothing when it already does."""
    stamp = into / STAMP
    if stamp.is_file() and stamp.read_text().strip() == SHA256:
        log(f"llama-cpp-python {VERSION} is unpacked already")
        return
    unpack(obtain(cache), into)


def main() -> int:
    """Run from the command line; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--into", type=Path, required=True, help="folder to unpack into")
    parser.add_argument("--cache", type=Path, required=True, help="folder that keeps the download")
    args = parser.parse_args()
    try:
        fetch(args.into, args.cache)
    except (FetchError, OSError, tarfile.TarError) as error:
        print(f"scope-cpp: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
