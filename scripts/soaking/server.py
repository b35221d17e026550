"""A server as a process of its own."""

from __future__ import annotations

import contextlib
import http.client
import os
import re
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from scope_cpp import child

HOST = "127.0.0.1"
PATIENCE = 120.0  # seconds without a byte until an answer is lost


@dataclass(frozen=True)
class Server:
    """A running server."""

    process: subprocess.Popen[bytes]
    port: int

    def connect(self, seconds: float = PATIENCE) -> http.client.HTTPConnection:
        """Open a connection for one request, and wait so long for each piece of its answer."""
        return http.client.HTTPConnection(HOST, self.port, timeout=seconds)

    def get(self, path: str) -> tuple[int, str]:
        """Return status and body."""
        with contextlib.closing(self.connect()) as connection:
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, response.read().decode()

    def metrics(self) -> dict[str, float]:
        """Return the samples without labels."""
        text = self.get("/metrics")[1]
        return {name: float(value) for name, value in re.findall(r"^(\w+) (\S+)$", text, re.M)}

    def rss(self) -> int:
        """Resident bytes of the process."""
        statm = Path(f"/proc/{self.process.pid}/statm").read_text()
        return int(statm.split()[1]) * os.sysconf("SC_PAGE_SIZE")


@contextlib.contextmanager
def serve(model: Path, flags: Sequence[str], faults: list[str]) -> Iterator[Server]:
    """Start ``scope serve``, wait until it is healthy, and end it in order."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port = probe.getsockname()[1]
    command = child.command("scope_cli", "serve", model, "--port", port)
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen([*command, *flags], stdout=log, stderr=log)
        server = Server(process, port)
        try:
            wait(lambda: _healthy(server), 120, "the server did not start")
            yield server
            process.send_signal(signal.SIGTERM)
            if process.wait(60) != 0:
                faults.append(f"the server ended with {process.returncode} after SIGTERM")
        finally:
            process.kill()
            process.wait()
            log.seek(0)
            for line in log.read().decode(errors="replace").splitlines():
                if "Traceback" in line or "rror:" in line:
                    faults.append(f"the server's log: {line}")


def _healthy(server: Server) -> bool:
    if server.process.poll() is not None:
        raise SystemExit(f"the server ended with {server.process.returncode} before it was ready")
    with contextlib.suppress(OSError):
        return server.get("/health")[0] == 200
    return False


def wait(ready: Callable[[], bool], seconds: float, what: str) -> None:
    """Wait until it is ready; end with `what` after so many seconds."""
    deadline = time.monotonic() + seconds
    while not ready():
        if time.monotonic() > deadline:
            raise SystemExit(f"{what} within {seconds:g} s")
        time.sleep(0.05)
