"""Counters and gauges of a server, in Prometheus' text format."""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping
from typing import Final

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

# Seconds that a rate is the mean of
WINDOW = 10.0

# What the label `path` may be: a client must not be able to make new series at will
PATHS = (
    "/",
    "/detokenize",
    "/health",
    "/metrics",
    "/openapi.json",
    "/tokenize",
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/models",
    "/v1/models/{id:path}",
)
OTHER = "other"

_FAMILIES: Final[Mapping[str, tuple[str, str]]] = {
    "scope_requests_total": ("counter", "HTTP requests answered, by route and status."),
    "scope_prompt_tokens_total": ("counter", "Prompt tokens of the requests that were answered."),
    "scope_generated_tokens_total": ("counter", "Tokens generated."),
    "scope_generated_tokens_per_second": (
        "gauge",
        f"Tokens generated per second, the mean of the last {WINDOW:g} seconds.",
    ),
    "scope_rows_running": ("gauge", "Sequences that are being read or written."),
    "scope_rows_waiting": ("gauge", "Sequences in the queue."),
    "scope_cells_used": ("gauge", "Cells of the KV cache in use, as llama.cpp counts them."),
    "scope_cells_capacity": ("gauge", "Cells of the KV cache that may be used."),
    "scope_kv_bytes": ("gauge", "Bytes of the KV cache."),
    "scope_memory_bytes": (
        "gauge",
        "Bytes of the KV cache and of all buffers beside it, without the weights.",
    ),
    "scope_prefix_bytes": (
        "gauge",
        "Bytes of these in copies of prompts, of models whose prompts can't rest in cells.",
    ),
    "scope_cells_evicted_total": ("counter", "Cells given up by the policies."),
}


class Metrics:
    """What a server counts; any thread may call any method.

    Parameters
    ----------
    paths
        Routes that are counted by name; all others are counted together.
    clock
        Seconds that never go back, for the rate.
    """

    def __init__(
        self, paths: Iterable[str] = PATHS, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._lock = threading.Lock()
        self._paths = frozenset(paths)
        self._clock = clock
        self._started = clock()
        self._requests: Counter[tuple[str, int]] = Counter()
        self._recent: deque[tuple[float, int]] = deque()  # second, tokens generated in it
        self._values = {
            name: 0 for name in _FAMILIES if not name.endswith(("_per_second", "requests_total"))
        }

    def request(self, path: str, status: int) -> None:
        """Count a request that was answered with an HTTP status."""
        with self._lock:
            self._requests[path if path in self._paths else OTHER, status] += 1

    def tokens(self, *, prompt: int = 0, generated: int = 0) -> None:
        """Count tokens read and generated since the last call."""
        with self._lock:
            self._values["scope_prompt_tokens_total"] += prompt
            self._values["scope_generated_tokens_total"] += generated
            if generated:
                self._remember(generated)

    def gauges(
        self,
        *,
        running: int,
        waiting: int,
        cells_used: int,
        cells_total: int,
        evicted: int,
        kv_bytes: int,
        memory_bytes: int,
        copies_bytes: int,
    ) -> None:
        """Set what is so now; `evicted` is the engine's total."""
        with self._lock:
            self._values |= {
                "scope_rows_running": running,
                "scope_rows_waiting": waiting,
                "scope_cells_used": cells_used,
                "scope_cells_capacity": cells_total,
                "scope_cells_evicted_total": evicted,
                "scope_kv_bytes": kv_bytes,
                "scope_memory_bytes": memory_bytes,
                "scope_prefix_bytes": copies_bytes,
            }

    def render(self) -> str:
        """Return all of them in Prometheus' text format, served as `CONTENT_TYPE`."""
        with self._lock:
            values: dict[str, float] = dict(self._values)
            values["scope_generated_tokens_per_second"] = self._rate()
            requests = sorted(self._requests.items())
        lines = []
        for name, (kind, text) in _FAMILIES.items():
            lines += [f"# HELP {name} {text}", f"# TYPE {name} {kind}"]
            if name == "scope_requests_total":
                lines += [
                    f'{name}{{path="{path}",status="{status}"}} {count}'
                    for (path, status), count in requests
                ]
            else:
                lines.append(f"{name} {values[name]}")
        return "\n".join(lines) + "\n"

    def _remember(self, generated: int) -> None:
        """Add tokens to those of this second; forget what is older than the window."""
        now = self._clock()
        if self._recent and now - self._recent[-1][0] < 1:
            since, before = self._recent.pop()
            self._recent.append((since, before + generated))
        else:
            self._recent.append((now, generated))
        self._forget(now)

    def _forget(self, now: float) -> None:
        while self._recent and now - self._recent[0][0] > WINDOW:
            self._recent.popleft()

    def _rate(self) -> float:
        now = self._clock()
        self._forget(now)
        seconds = min(WINDOW, max(1.0, now - self._started))
        return round(sum(count for _, count in self._recent) / seconds, 3)
