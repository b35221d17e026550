"""A server in a thread of this process, on a real socket."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from scope_cpp.engine.model import Model
from scope_cpp.engine.settings import Settings
from scope_cpp.serve.lifespan import Service
from scope_cpp.serve.options import Options, bind
from scope_cpp.serve.serving import make_serving

WAIT = 60.0


@dataclass
class Running:
    """A service that runs, what it said, and the thread that it runs in."""

    service: Service
    thread: threading.Thread
    model: Model
    said: list[str] = field(default_factory=list)

    @property
    def url(self) -> str:
        return self.service.url

    def client(self, **fields: Any) -> Any:
        """The official client, as users make it."""
        import openai

        values = {"base_url": f"{self.url}/v1", "api_key": "none", "max_retries": 0}
        return openai.OpenAI(**values | fields)

    def http(self, **fields: Any) -> Any:
        import httpx

        return httpx.Client(base_url=self.url, timeout=WAIT, trust_env=False, **fields)

    def metrics(self) -> dict[str, float]:
        """Samples without labels."""
        with self.http() as http:
            lines = http.get("/metrics").text.splitlines()
        pairs = (line.split() for line in lines if line[0] != "#" and "{" not in line)
        return {name: float(value) for name, value in pairs}

    def stop(self) -> None:
        self.service.stop()
        self.thread.join(WAIT)
        assert not self.thread.is_alive()
        self.service.settle()


@contextmanager
def running(
    path: Path,
    settings: Settings | None = None,
    sampling: dict[str, Any] | None = None,
    name: str | None = None,
    **limits: Any,
) -> Iterator[Running]:
    """Serve a model while the block lasts."""
    said: list[str] = []
    options = Options(**{"port": 0, "cells": "2k", "prefix_cache": "0"} | limits)
    settings = settings or Settings(n_threads=1, n_threads_batch=1)
    with bind(options) as listener, Model.load(path) as model:
        serving = make_serving(model, options, name, settings, sampling or {"temp": 0.0}, None)
        service = Service(
            serving, options, listener, warn=said.append, note=said.append, verbose=True
        )
        thread = threading.Thread(target=service.run)
        thread.start()
        server = Running(service, thread, model, said)
        try:
            yield server
        finally:
            server.stop()
