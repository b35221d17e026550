"""A Ray cluster: started on this machine, or joined."""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import secrets
import shutil
import signal
import socket
import tempfile
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scope_cpp.batch.ray_share import Share, share
from scope_cpp.engine.devices import devices
from scope_cpp.engine.logs import native_stderr
from scope_cpp.engine.threads import default_threads
from scope_cpp.errors import ScopeError, UsageError
from scope_cpp.extras import install

LOCAL = "local"

# Rows and records are small and go without the object store; this is the least that Ray takes.
# Where /dev/shm has less, Ray puts it into its temporary folder.
_OBJECT_STORE_BYTES = 80 * 2**20
_QUIETLY = {
    "RAY_USAGE_STATS_ENABLED": "0",
    # Ray prints deaths of workers to stdout, where records may go; we tell of them ourselves
    "RAY_DEDUP_LOGS_SKIP_REGEX": ".",
    "RAY_SCHEDULER_EVENTS": "0",
}
_OPTIONS = {"log_to_driver": False, "logging_level": logging.ERROR}
# With this Ray takes 127.0.0.1 for this machine's address, as it does on Windows and macOS
_LOOPBACK = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
_KNOCK_SECONDS = 5
# Each worker sees one GPU only
_OF_SEVERAL_GPUS = {"main_gpu": "-mg", "tensor_split": "-ts"}


@dataclass(frozen=True)
class Cluster:
    """A cluster that we are connected to.

    Attributes
    ----------
    ray
        The module.
    share
        What each worker gets of it.
    """

    ray: Any
    share: Share

    @property
    def memory_parts(self) -> int:
        """Into how many parts workers divide a machine's free memory, or that of its GPUs."""
        n_gpus = sum(device.kind == "GPU" for device in devices()) if self.share.n_gpus else 0
        return max(self.share.n_sharing, n_gpus)


@contextlib.contextmanager
def cluster(
    address: str, *, n_workers: int | None, n_threads: int, placement: Mapping[str, Any]
) -> Iterator[Cluster]:
    """Join a cluster, or start one on this machine that ends with the block.

    Parameters
    ----------
    address
        `LOCAL`, ``auto`` or ``HOST:PORT``.
    n_workers, n_threads
        See `share`.
    placement
        Arguments of `Model.load`.

    Raises
    ------
    UsageError
        If Ray is not installed, has no room for the workers, or the model should be divided among
        GPUs.
    ScopeError
        If the cluster can't be reached or started.
    """
    ray = _load(_QUIETLY if address != LOCAL else {**_QUIETLY, **_LOOPBACK, **_token()})
    with contextlib.ExitStack() as stack:
        connect = _start if address == LOCAL else _join
        with _own_sigterm():
            connect(ray, stack, address, (n_workers or 1) * n_threads)
        machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        each = share(machines, n_workers, n_threads, placement.get("n_gpu_layers") != 0)
        several = [_OF_SEVERAL_GPUS[key] for key in _OF_SEVERAL_GPUS if placement.get(key)]
        if several and each.n_gpus:
            raise UsageError(f"{several[0]}: with --ray each worker has one GPU; leave it out")
        yield Cluster(ray, each)


def _load(variables: Mapping[str, str]) -> Any:
    """Import Ray, which reads its variables then."""
    for name, value in variables.items():
        os.environ.setdefault(name, value)
    try:
        ray = importlib.import_module("ray")
    except ImportError:
        raise UsageError(f"--ray needs Ray, which is not installed: {install('ray')}") from None
    logging.getLogger("ray").setLevel(logging.ERROR)
    return ray


def _token() -> dict[str, str]:
    """What keeps other users of this machine out; Ray would leave one in the home folder."""
    return {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}


@contextlib.contextmanager
def _own_sigterm() -> Iterator[None]:
    """Keep the handler that is there: Ray's would end the process in the middle of a record."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)


def _start(ray: Any, stack: contextlib.ExitStack, address: str, n_cpus: int) -> None:
    """Start a cluster on this machine, with at least `n_cpus`, for this process alone."""
    folder = tempfile.mkdtemp(prefix="scope-ray-")
    stack.callback(shutil.rmtree, folder, ignore_errors=True)
    stack.callback(ray.shutdown)
    environment = _environment()
    try:
        with _elsewhere(Path(folder, "empty")):
            ray.init(
                address=address,
                num_cpus=max(default_threads(), n_cpus),
                include_dashboard=False,
                object_store_memory=_OBJECT_STORE_BYTES,
                _temp_dir=folder,
                _node_ip_address="127.0.0.1",
                **environment,
                **_OPTIONS,
            )
    except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as err:
        raise ScopeError(f"Ray does not start on this machine: {_line(err)}") from None


def _join(ray: Any, stack: contextlib.ExitStack, address: str, n_cpus: int) -> None:
    """Connect to a cluster that is there."""
    if "://" in address:
        raise UsageError(
            f"--ray {address}: Ray Client is not supported; run on a machine of the cluster, with "
            "--ray auto"
        )
    _knock(address)
    stack.callback(ray.shutdown)
    environment = _environment()
    try:
        with native_stderr() as told, tempfile.TemporaryDirectory() as empty, _elsewhere(empty):
            ray.init(address=address, **environment, **_OPTIONS)
    except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as err:
        if any("Unauthenticated" in line for line in told):
            raise ScopeError(
                f"the Ray cluster at {address} wants a token: set RAY_AUTH_MODE=token, see Ray's "
                "page on token authentication"
            ) from None
        raise ScopeError(_no_cluster(address, _line(err))) from None


def _knock(address: str) -> None:
    """Find out in seconds whether anything listens; Ray takes minutes."""
    host, colon, port = address.rpartition(":")
    if not colon:
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), _KNOCK_SECONDS).close()
    except (OSError, ValueError, OverflowError) as err:
        reason = getattr(err, "strerror", None) or str(err)
        raise ScopeError(_no_cluster(address, reason)) from None


def _environment() -> dict[str, Any]:
    """Return what of `ray.init` lets workers find what we find: `PYTHONPATH`, from any folder."""
    folders = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    path = os.pathsep.join(os.path.abspath(folder) for folder in folders if folder)
    return {"runtime_env": {"env_vars": {"PYTHONPATH": path}}} if path else {}


@contextlib.contextmanager
def _elsewhere(empty: str | Path) -> Iterator[None]:
    """Be in an empty folder: Ray lets workers import from the current one before all others."""
    before = os.getcwd()
    os.makedirs(empty, exist_ok=True)
    os.chdir(empty)
    try:
        yield
    finally:
        os.chdir(before)


def _no_cluster(address: str, reason: str) -> str:
    return (
        f"no Ray cluster answers at {address} ({reason}): start one there with 'ray start --head', "
        "or leave the address out"
    )


def _line(err: Exception) -> str:
    return " ".join(str(err).split())[:300] or type(err).__name__
