"""What the server is asked to be."""

from __future__ import annotations

import math
import socket
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from scope_cpp.engine import budget as dial
from scope_cpp.engine.kv_types import bytes_per_cell
from scope_cpp.engine.memory import free_memory
from scope_cpp.engine.settings import Settings
from scope_cpp.errors import ScopeError, UsageError
from scope_cpp.serve.auth import is_loopback

if TYPE_CHECKING:
    from scope_cpp.engine.model import Model
    from scope_cpp.engine.parallel.copies import Copies

CELLS_PER_ROW = 4096  # of the cache, where nothing else is said
_CELLS, _PREFIX_CACHE = "--cells", "--prefix-cache"


@dataclass(frozen=True)
class Options:
    """Address, limits and cache of a server.

    Attributes
    ----------
    host, port
        Where it listens; port 0 takes a free one.
    api_keys, insecure_no_key
        Keys of clients. Without any, only this machine is let in, unless that is forced.
    n_parallel, queue
        Rows that run at once; rows that may wait beside them.
    cells, prefix_cache
        The cache of all rows together, and what of it prompts of finished rows may keep: cells
        (``8k``) or memory (``512MiB``); see `cache_sizes`.
    n_predict
        Longest answer, in tokens.
    max_body
        Bytes of a request.
    timeout, body_timeout, grace
        Seconds for an answer from the request's arrival; for a request to arrive; for running
        answers at the end.
    max_connections
        Connections at once.
    log_prompts
        Write prompts to the log.

    Raises
    ------
    UsageError
        For a value out of range.
    """

    host: str = "127.0.0.1"
    port: int = 8080
    api_keys: tuple[str, ...] = ()
    insecure_no_key: bool = False
    n_parallel: int = 4
    queue: int = 64
    cells: str | None = None
    prefix_cache: str | None = None
    n_predict: int = 4096
    max_body: int = 4 << 20
    timeout: float = 600.0
    body_timeout: float = 30.0
    grace: float = 30.0
    max_connections: int = 256
    log_prompts: bool = False

    def __post_init__(self) -> None:
        least = {"n_parallel": 1, "queue": 0, "n_predict": 1, "max_body": 1, "max_connections": 1}
        for name, low in least.items():
            if getattr(self, name) < low:
                raise UsageError(f"{_flag(name)} {getattr(self, name)}: give at least {low}")
        for name in ("timeout", "body_timeout"):
            if not 0 < getattr(self, name) < math.inf:
                raise UsageError(f"{_flag(name)} {getattr(self, name)}: give seconds above 0")
        if not 0 <= self.grace < math.inf:
            raise UsageError(f"{_flag('grace')} {self.grace}: give seconds, 0 or more")
        _asked_cells(self), _asked_prefix(self)


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _asked_cells(options: Options) -> dial.Budget:
    return dial.parse_budget(options.cells, _CELLS, dial.OF_NO_LENGTH)


def _asked_prefix(options: Options) -> dial.Budget:
    kinds = ("cells", "bytes")
    return dial.parse_budget(options.prefix_cache, _PREFIX_CACHE, kinds, or_none=True)


def cache_sizes(options: Options, model: Model, settings: Settings) -> tuple[int, int]:
    """Return the cells of all rows together, and those that prompts of finished rows may keep.

    Without a word `CELLS_PER_ROW` for each row, or fewer where half of the free memory holds fewer,
    or where no text can be as long; and half of them. Where prompts are copied, it is memory beside
    the cells: for as many tokens, and `MOST_RESTING` times the windows and states of a row, within
    a quarter of what is free.

    Raises
    ------
    UsageError
        If these are no numbers of cells, or over memory.
    """
    # these load llama.cpp, and help needs this module
    from scope_cpp.engine.forecast import Forecast
    from scope_cpp.engine.length import longest_text
    from scope_cpp.engine.parallel.cells import taken
    from scope_cpp.engine.parallel.copies import Copies

    asked = _prefix_cells(options, model, settings)
    with Forecast(model) as forecast:
        by_rows = taken(forecast, settings, options.n_parallel)
        copies = Copies.of(forecast, settings, options.n_parallel)
        if copies is not None:
            if asked is not None:
                copies.check(_PREFIX_CACHE, str(options.prefix_cache), asked)
            copies = copies.within(options.cells)
        rest = _rest(asked, copies)
        if copies is not None:
            by_rows = copies.added(by_rows, rest)
        free = free_memory(gpu=settings.offload_kqv and model.offloaded)
        cells, most = _asked_cells(options), None
        if cells.kind == "default":
            cells = dial.parse_budget("auto", _CELLS)
            longest = longest_text(settings, model)
            of_row = CELLS_PER_ROW if longest is None else min(CELLS_PER_ROW, longest)
            most = of_row * options.n_parallel
        n_cells = _cells(cells, by_rows, free, most)
    if copies is None and rest(n_cells) > n_cells:
        raise UsageError(
            f"{_PREFIX_CACHE} {options.prefix_cache} is {asked} cells, the cache has {n_cells}: "
            "give less, or more --cells"
        )
    return n_cells, rest(n_cells)


def _rest(asked: int | None, copies: Copies | None) -> Callable[[int], int]:
    """Return what tells how many of so many cells prompts may keep."""
    from scope_cpp.engine.parallel.cells import MOST_RESTING

    if asked is not None:
        return lambda n_cells: asked
    if copies is not None:
        return lambda n_cells: copies.usual(n_cells // 2, MOST_RESTING)
    return lambda n_cells: n_cells // 2


def _prefix_cells(options: Options, model: Model, settings: Settings) -> int | None:
    """Cells that prompts may keep; ``None`` where nothing is said."""
    asked = _asked_prefix(options)
    if asked.value == 0:
        return None if asked.kind == "default" else 0
    per_cell = bytes_per_cell(model, settings.type_k, settings.type_v)
    return _cells(asked, lambda n: n * per_cell, sys.maxsize)


def _cells(
    asked: dial.Budget, by_rows: Callable[[int], int], free: int, most: int | None = None
) -> int:
    return dial.cells(asked, n_prompt=0, n_predict=most, taken=by_rows, free_memory=free)


def bind(options: Options) -> socket.socket:
    """Listen where the options say; clients that come before the model is there wait.

    Raises
    ------
    UsageError
        If others could come in without a key, or the host is unknown.
    ScopeError
        If the port is taken.
    """
    try:
        found = socket.getaddrinfo(options.host, options.port, type=socket.SOCK_STREAM)
    except OSError as err:
        raise UsageError(f"--host {options.host}: {err.strerror or err}") from None
    family, kind, number, _, address = found[0]
    if not (is_loopback(str(address[0])) or options.api_keys or options.insecure_no_key):
        raise UsageError(
            f"--host {options.host} lets other machines in: give them --api-key KEY, or let "
            "everybody in with --insecure-no-key"
        )
    listener = socket.socket(family, kind, number)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(1024)
    except OSError as err:
        listener.close()
        raise ScopeError(
            f"cannot listen on {options.host} port {options.port} ({err.strerror}): "
            "give another --port"
        ) from None
    return listener


def url_of(listener: socket.socket) -> str:
    """Address of a server that listens there."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
