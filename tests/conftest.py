"""Fixtures for all tests."""

from __future__ import annotations

import gc
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from scope_cpp.reference.tiny_model import write_tiny_model
from scope_cpp.wording import speak_of_flags
from tests.hub_stand_in import Hub, serve

# no deadline: a slow machine is not a bug
settings.register_profile("scope", deadline=None)
settings.load_profile("scope")

Tiny = Callable[..., Path]

# devices of each --backend beside the CPU
N_DEVICES = {"cpu": 0, "own": 1, "rpc": 1, "two-rpc": 2}


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add what chooses the backend."""
    parser.addoption(
        "--backend",
        choices=list(N_DEVICES),
        default="cpu",
        help="rpc: load models into a child process, whose memory the CPU can't reach;"
        " two-rpc: into two of them, half of the layers each;"
        " own: into the device that libllama was built for (LLAMA_CPP_LIB_PATH)",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Take Ctrl-C, as processes that tests start must: a shell's background jobs ignore it."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    speak_of_flags()  # as most of what is tested does; tests/engine/test_python_words.py doesn't
    if config.getoption("backend").endswith("rpc"):
        from tests.backends import rpc

        for _ in range(N_DEVICES[config.getoption("backend")]):
            rpc.add_device()


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what can't be on this backend."""
    has_devices = N_DEVICES[item.config.getoption("backend")] > 0
    mark = item.get_closest_marker("host_only")
    if mark and has_devices:
        pytest.skip(mark.args[0])
    if item.get_closest_marker("device_only") and not has_devices:
        pytest.skip("compares a device with main memory: pytest --backend rpc")


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep the user's cache folder out of it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True)
def _own_log() -> Iterator[None]:
    """Let llama.cpp's log be silent again, which is one for the process, and a test may change."""
    yield
    if "scope_cpp.engine.logs" in sys.modules:
        sys.modules["scope_cpp.engine.logs"].capture()


@pytest.fixture(autouse=True)
def _nothing_left(pytestconfig: pytest.Config) -> Iterator[None]:
    """Free what a test made before the next one computes: llama.cpp's RPC server forgets graphs."""
    yield
    if N_DEVICES[pytestconfig.getoption("backend")]:
        gc.collect()


@pytest.fixture(scope="session")
def n_devices(pytestconfig: pytest.Config) -> int:
    """Devices that models are loaded into; 0: main memory."""
    return N_DEVICES[pytestconfig.getoption("backend")]


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """Folder with ``models/`` and ``data/``: $SCOPE_TEST_DATA, else ``shared`` beside the clone."""
    default = Path(__file__).resolve().parents[2] / "shared"
    folder = Path(os.environ.get("SCOPE_TEST_DATA", default))
    if not (folder / "models").is_dir():
        pytest.skip("no trained test models: set SCOPE_TEST_DATA to the folder that has models/")
    return folder


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    """Path of a tiny model of the given `TinyModel` fields."""
    return _written_once(tmp_path_factory.mktemp("tiny"), write_tiny_model)


@pytest.fixture(scope="session")
def tiny_arch(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    """Path of a tiny model of an architecture of tests/architectures: ``tiny_arch(arch="lfm2")``.

    Further arguments are those of `write_architecture`.
    """
    from tests.architectures.maker import write_architecture  # loads libllama

    return _written_once(tmp_path_factory.mktemp("architectures"), write_architecture)


def _written_once(folder: Path, write: Callable[..., Path]) -> Tiny:
    written: dict[str, Path] = {}

    def get(**fields: Any) -> Path:
        key = repr(sorted(fields.items()))
        if key not in written:
            written[key] = write(folder / f"{len(written)}.gguf", **fields)
        return written[key]

    return get


@pytest.fixture
def hub_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """An empty hub; huggingface_hub is loaded anew, because it reads the variables then."""
    pytest.importorskip("huggingface_hub")
    for name in list(sys.modules):
        if name.partition(".")[0] == "huggingface_hub":
            monkeypatch.delitem(sys.modules, name)
    for name in ("HF_TOKEN", "HF_HUB_OFFLINE", "HF_HUB_CACHE", "TRANSFORMERS_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    with serve(Hub()) as state:
        monkeypatch.setenv("HF_ENDPOINT", state.url)
        yield state
