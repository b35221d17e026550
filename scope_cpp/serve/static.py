"""The page for chatting: a handful of files that come with the package."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

from starlette.responses import Response
from starlette.routing import Route

FOLDER = Path(__file__).with_name("page")

_KINDS = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
_HEADERS = {
    # nothing of other servers, no script in the text, not within another page
    "Content-Security-Policy": "default-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'; object-src 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


def routes() -> list[Route]:
    """Return a route for each file; ``/`` is the page itself."""
    files = sorted(path for path in FOLDER.iterdir() if path.suffix in _KINDS)
    found = []
    for path in files:
        where = "/" if path.name == "index.html" else f"/page/{path.name}"
        found.append(Route(where, _sender(path), methods=["GET"]))
    return found


def _sender(path: Path) -> Callable[[object], Awaitable[Response]]:
    content, kind = path.read_bytes(), _KINDS[path.suffix]

    async def send(request: object) -> Response:
        return Response(content, media_type=kind, headers=_HEADERS)

    return send
