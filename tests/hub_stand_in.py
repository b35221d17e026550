"""A small HTTP server that answers as the Hugging Face Hub does, on this machine only."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote

COMMIT = "c" * 40


@dataclass
class Hub:
    """What the server has, and what it was asked.

    Attributes
    ----------
    repos : dict
        Files and their bytes by repository.
    cut : dict
        Bytes after which the connection breaks, by file, each used up by one break.
    token : str
        Needed for repositories in `private` and `gated`.
    status : int
        Answer all requests with that, if it is set.
    elsewhere : str
        Another address that holds the bytes, as the hub's large files do.
    asked : list
        Method, path, ``Range`` and ``Authorization`` of each request.
    hold : int
        Send only so many bytes of a file, then set `held` and wait for `go_on`.
    """

    repos: dict[str, dict[str, bytes]] = field(default_factory=dict)
    cut: dict[str, list[int]] = field(default_factory=dict)
    gated: set[str] = field(default_factory=set)
    private: set[str] = field(default_factory=set)
    token: str = "hf_right"
    status: int = 0
    commit: str = COMMIT
    elsewhere: str = ""
    url: str = ""
    asked: list[tuple[str, str, str, str]] = field(default_factory=list)
    hold: int = 0
    held: threading.Event = field(default_factory=threading.Event)
    go_on: threading.Event = field(default_factory=threading.Event)

    def gets(self, name: str) -> list[str]:
        """Return the ranges that were asked of a file."""
        return [asked[2] for asked in self.asked if asked[0] == "GET" and asked[1].endswith(name)]


@contextmanager
def serve(hub: Hub) -> Iterator[Hub]:
    """Answer on a free port of this machine; ``hub.url`` is its address."""

    class Handler(_Handler):
        state = hub

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.go_on.set()
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    state: Hub

    def log_message(self, *args: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, body: bool) -> None:
        hub, path = self.state, unquote(self.path.partition("?")[0])
        sent = [self.headers.get(name, "") for name in ("Range", "Authorization")]
        hub.asked.append((self.command, path, sent[0], sent[1]))
        if hub.status:
            return self._refuse(hub.status, "")
        if path.startswith("/api/models/"):
            return self._info(path.removeprefix("/api/models/"))
        repo, _, name = path[1:].partition("/resolve/main/")
        files = hub.repos.get(repo)
        if files is None or (repo in hub.private and not self._knows()):
            return self._refuse(401 if not sent[1] else 404, "RepoNotFound")
        if repo in hub.gated and not self._knows():
            return self._refuse(403 if sent[1] else 401, "GatedRepo")
        if name not in files:
            return self._refuse(404, "EntryNotFound")
        self._file(path, files[name], body)

    def _knows(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {self.state.token}"

    def _refuse(self, status: int, code: str) -> None:
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _info(self, repo: str) -> None:
        hub = self.state
        if repo not in hub.repos or (repo in hub.private and not self._knows()):
            return self._refuse(401, "RepoNotFound")
        names = [{"rfilename": name} for name in hub.repos[repo]]
        text = json.dumps({"id": repo, "sha": hub.commit, "siblings": names}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def _file(self, path: str, data: bytes, body: bool) -> None:
        hub, etag = self.state, hashlib.sha256(data).hexdigest()
        if hub.elsewhere:
            self.send_response(302)
            self.send_header("Location", hub.elsewhere + self.path)
            self.send_header("X-Repo-Commit", hub.commit)
            self.send_header("X-Linked-Etag", f'"{etag}"')
            self.send_header("X-Linked-Size", str(len(data)))
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        asked = self.headers.get("Range", "")
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked else 0
        self.send_response(206 if asked else 200)
        if asked:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        self.send_header("X-Repo-Commit", hub.commit)
        self.send_header("ETag", f'"{etag}"')
        self.send_header("Content-Length", str(len(data) - start))
        self.end_headers()
        if body:
            with suppress(ConnectionError):  # the other side may end at any time
                self._send(path.rpartition("/")[2], data[start:])

    def _send(self, name: str, data: bytes) -> None:
        hub = self.state
        if hub.hold:
            self.wfile.write(data[: hub.hold])
            self.wfile.flush()
            hub.held.set()
            hub.go_on.wait()
            data = data[hub.hold :]
        breaks = hub.cut.get(name)
        if breaks:
            self.wfile.write(data[: breaks.pop(0)])
            self.close_connection = True
            return
        self.wfile.write(data)
