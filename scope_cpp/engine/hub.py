"""GGUF models of the Hugging Face Hub, in the cache that huggingface_hub's tools share.

Which file is taken, and the spelling ``user/repo[:quant]``, are llama.cpp's. A download that broke
off goes on where it stopped, which huggingface_hub itself does not do.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

from scope_cpp.engine.split_name import SPLIT, part_names
from scope_cpp.errors import ScopeError, UsageError
from scope_cpp.extras import install
from scope_cpp.files import open_own

Notify = Callable[[str], None]

_REPO = re.compile(r"([\w.-]+/[\w.-]+)(?::([\w.-]+))?")
_TAG = re.compile(r"[-.]([A-Z0-9_]+)$", re.IGNORECASE)
_NO_MODEL = ("mmproj", "imatrix", "mtp-", "eagle3-", "dflash-", "dspark-")
DEFAULT_QUANTS = ("Q4_K_M", "Q8_0")
_PLAIN_ETAG = re.compile(r"[\w.-]+")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_TIMEOUT = 10.0


class _Unreachable(ScopeError):
    """The hub does not answer; what is cached may do."""


def fetch(
    spec: str, file: str | None = None, *, offline: bool = False, notify: Notify = print
) -> Path:
    """Return the path of a model of the hub, downloaded unless it is in the cache already.

    Parameters
    ----------
    spec : str
        ``user/repo``, or ``user/repo:quant`` as in ``user/repo:Q8_0``; letters of both cases are
        the same. Without a quant the first Q4_K_M is taken, else the first Q8_0, else the first
        model.
    file : str, optional
        A file of the repository, which takes the place of the quant.
    offline : bool
        Look into the cache only. The variable ``HF_HUB_OFFLINE`` does the same.
    notify : callable
        Told in one line what is taken and downloaded.

    Returns
    -------
    Path
        The file; of a model in parts the first, beside the others.

    Raises
    ------
    UsageError
        If there is no such repository, file or quant, several match, or huggingface_hub is missing.
    ScopeError
        If the hub cannot be reached, or the disk is full.
    """
    repo, quant = _parse(spec)
    hub = _library()
    if offline or hub.constants.HF_HUB_OFFLINE:
        return _cached(hub, repo, quant, file)
    try:
        with _one_line(hub, repo):
            info = hub.HfApi().model_info(repo, timeout=_TIMEOUT)
    except _Unreachable as err:
        try:
            path = _cached(hub, repo, quant, file)
        except UsageError:
            raise err from None
        notify(f"{hub.constants.ENDPOINT} cannot be reached: taking {path.name} from the cache")
        return path
    names = [item.rfilename for item in info.siblings or ()]
    chosen = choose(names, quant, file, repo)
    if quant is None and file is None:
        notify(f"taking {chosen} of {repo}")
    with _one_line(hub, repo):
        paths = [_download(hub, repo, name, notify) for name in parts(names, chosen, repo)]
    if len({path.parent for path in paths}) > 1:
        raise ScopeError(f"{repo} changed while it was downloaded: run the same again")
    return paths[0]


def choose(names: Sequence[str], quant: str | None, file: str | None, repo: str) -> str:
    """Return which of the repository's files is meant, of a model in parts the first.

    Raises
    ------
    UsageError
        If none or several are.
    """
    models = [name for name in names if _is_model(name)]
    if file is not None:
        if file not in names:
            raise UsageError(f"{repo} has no file {file}: {_list(models)}")
        return file
    if not models:
        raise UsageError(f"{repo} has no GGUF model: give a repository of GGUF files")
    if quant is None:
        found = (name for tag in DEFAULT_QUANTS for name in _matching(models, tag))
        return next(found, models[0])
    matching = _matching(models, quant)
    exact = [name for name in matching if _tag(name) == quant.upper()]
    if len(exact or matching) == 1:
        return (exact or matching)[0]
    if matching:
        raise UsageError(
            f"{repo} has several models {quant}: choose one with -hff: {', '.join(matching)}"
        )
    raise UsageError(f"{repo} has no {quant}: {_list([_tag(name) or name for name in models])}")


def parts(names: Sequence[str], chosen: str, repo: str) -> list[str]:
    """Return all files of the model that `chosen` belongs to, in order.

    Raises
    ------
    UsageError
        If the repository lacks one.
    """
    wanted = part_names(chosen)
    missing = [name for name in wanted if name not in names]
    if missing:
        raise UsageError(
            f"{repo} lacks {missing[0]}, {len(missing)} of {len(wanted)} parts: choose another"
        )
    return wanted


def _parse(spec: str) -> tuple[str, str | None]:
    match = _REPO.fullmatch(spec)
    if match is None:
        raise UsageError(f"-hf {spec}: write it as user/repo or user/repo:quant")
    return match[1], match[2]


def _is_model(name: str) -> bool:
    """Whether a file can be loaded: no projector, no draft, no later part."""
    split, base = SPLIT.fullmatch(name), name.rpartition("/")[2]
    return (
        name.lower().endswith(".gguf")
        and not any(word in base for word in _NO_MODEL)
        and (split is None or int(split[2]) == 1)
    )


def _matching(models: Sequence[str], quant: str) -> list[str]:
    pattern = re.compile(rf"(?<![A-Z0-9]){re.escape(quant)}[.-]", re.IGNORECASE)
    return [name for name in models if pattern.search(name)]


def _tag(name: str) -> str:
    """Return the quant that a file's name ends with, in capitals; empty if it has none."""
    split = SPLIT.fullmatch(name)
    match = _TAG.search(split[1] if split else name[: -len(".gguf")])
    return match[1].upper() if match else ""


def _list(valid: Sequence[str]) -> str:
    return f"valid are {', '.join(dict.fromkeys(valid))}" if valid else "it has no GGUF model"


def _library() -> Any:
    try:
        hub = import_module("huggingface_hub")
        for name in ("constants", "errors", "file_download", "utils"):
            import_module(f"huggingface_hub.{name}")
    except ImportError:
        raise UsageError(f"-hf needs huggingface_hub: {install('hub')}") from None
    hub.utils.logging.set_verbosity_error()
    return hub


def _folder(hub: Any, repo: str) -> Path:
    name = hub.file_download.repo_folder_name(repo_id=repo, repo_type="model")
    return Path(hub.constants.HF_HUB_CACHE, name)


def _cached(hub: Any, repo: str, quant: str | None, file: str | None) -> Path:
    """Return the model from the newest snapshot that has all of it."""
    reason = UsageError(
        f"{repo} is not in the cache {hub.constants.HF_HUB_CACHE}: download it without --offline"
    )
    for snapshot in _snapshots(_folder(hub, repo)):
        files = sorted(path for path in snapshot.rglob("*") if path.is_file())
        names = [path.relative_to(snapshot).as_posix() for path in files]
        try:
            return snapshot / parts(names, choose(names, quant, file, repo), repo)[0]
        except UsageError as err:
            if any(map(_is_model, names)):
                reason = UsageError(f"in the cache, {err}; others need a run without --offline")
    raise reason


def _snapshots(folder: Path) -> list[Path]:
    """Return the folders of all cached commits, the last seen one of ``main`` first."""
    main = folder / "refs" / "main"
    commit = main.read_text().strip() if main.is_file() else ""
    found = (path for path in folder.glob("snapshots/*") if path.is_dir())
    return sorted(found, key=lambda path: (path.name == commit, path.stat().st_mtime), reverse=True)


def _download(hub: Any, repo: str, name: str, notify: Notify) -> Path:
    """Return a file of the repository from the cache, where it is put if need be."""
    url = hub.hf_hub_url(repo, name)
    seen = hub.get_hf_file_metadata(url)
    largest = hub.constants.MAX_HTTP_DOWNLOAD_SIZE
    if seen.etag and _PLAIN_ETAG.fullmatch(seen.etag) and 0 < (seen.size or 0) <= largest:
        folder = _folder(hub, repo)
        blob = folder / "blobs" / seen.etag
        lock = folder.parent / ".locks" / folder.name / f"{seen.etag}.lock"
        for path in (blob, lock):
            path.parent.mkdir(parents=True, exist_ok=True)
        with hub.utils.WeakFileLock(lock):
            if not blob.exists():
                notify(f"downloading {name} ({seen.size / 2**20:.1f} MiB) of {repo}")
                _fill(hub, url, blob, seen.size)
    return Path(hub.hf_hub_download(repo, name))  # now only gives the blob its name


def _fill(hub: Any, url: str, blob: Path, size: int) -> None:
    """Download `url` to `blob`, from where an earlier try stopped."""
    partial = blob.with_name(f"{blob.name}.incomplete")
    done = partial.stat().st_size if partial.exists() else 0
    if done > size:
        partial.unlink()
        done = 0
    free = shutil.disk_usage(blob.parent).free
    if size - done > free:
        raise ScopeError(
            f"{(size - done) / 2**20:.1f} MiB are to be downloaded, {free / 2**20:.1f} MiB are free"
            f" in {blob.parent}: free some, or set HF_HOME to a folder on another disk"
        )
    # the name is known beforehand: what a link there leads to is not ours to write
    with os.fdopen(open_own(partial, os.O_WRONLY | os.O_CREAT | os.O_APPEND), "ab") as file:
        hub.file_download.http_get(
            url,
            file,
            resume_size=done,
            headers=hub.utils.build_hf_headers(),
            expected_size=size,
            displayed_filename=url.rpartition("/")[2],
        )
    if done and _SHA256.fullmatch(blob.name) and _sha256(partial) != blob.name:
        partial.unlink()
        raise ScopeError(f"{url} was damaged on the way and is removed: run the same again")
    partial.replace(blob)


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


@contextmanager
def _one_line(hub: Any, repo: str) -> Iterator[None]:
    """Turn what huggingface_hub raises into an error of one line, with the remedy."""
    try:
        yield
    except (hub.errors.HTTPError, OSError, ValueError) as err:
        raise _told(hub, repo, err) from None


def _told(hub: Any, repo: str, err: Exception) -> ScopeError:
    errors, endpoint = hub.errors, hub.constants.ENDPOINT
    if isinstance(err, errors.HFValidationError):
        return UsageError(f"-hf {repo} cannot be a repository: write it as user/repo")
    if isinstance(err, errors.GatedRepoError):
        return UsageError(
            f"{repo} is gated: accept its terms at {endpoint}/{repo}, and set HF_TOKEN"
        )
    if isinstance(err, errors.RepositoryNotFoundError):
        return UsageError(
            f"{endpoint} has no {repo} that you may read: check the name, or set HF_TOKEN"
        )
    if isinstance(err, errors.HfHubHTTPError):
        status = err.response.status_code
        if status in (401, 403):
            return UsageError(f"{endpoint} refuses {repo} ({status}): check HF_TOKEN")
        if status >= 500:
            return _Unreachable(f"{endpoint} answers {status} for {repo}: try again later")
        return ScopeError(f"{endpoint} answers {status} for {repo}: try again later")
    if isinstance(err, errors.HTTPError):
        cause = " ".join(str(err).split()) or type(err).__name__
        return _Unreachable(
            f"{endpoint} cannot be reached ({cause}): check the network and run the same again, a"
            " download goes on where it stopped"
        )
    if isinstance(err, OSError) and err.errno in (errno.ENOSPC, errno.EDQUOT):
        return ScopeError(
            f"the disk of {hub.constants.HF_HUB_CACHE} is full: free some and run the same again,"
            " or set HF_HOME to a folder on another disk"
        )
    if isinstance(err, OSError) and err.strerror:
        where = err.filename or hub.constants.HF_HUB_CACHE
        return ScopeError(f"{where}: {err.strerror}: set HF_HOME to a folder that you may write")
    cause = " ".join(str(err).split())
    return ScopeError(f"{endpoint} does not answer as a hub ({cause}): check HF_ENDPOINT")
