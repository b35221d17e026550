"""HTTP connections: uvicorn's protocol, with bounds and with errors in OpenAI's form."""

from __future__ import annotations

import asyncio
import json
from typing import Any, ClassVar

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from scope_cpp.serve.errors import ApiError


class Wire(H11Protocol):
    """A connection that may not idle in the middle of a request's head, nor be one too many."""

    head_seconds: ClassVar[float]
    most: ClassVar[int]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """Take a connection, or refuse it."""
        super().connection_made(transport)
        if len(self.connections) > self.most:
            self._end(ApiError(503, "too many connections: try again later", code="overloaded"))
        else:
            self._watch()

    def data_received(self, data: bytes) -> None:
        """Take bytes; those of a head must be complete in time."""
        super().data_received(data)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        super().connection_lost(exc)
        self._unwatch()

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no HTTP."""
        self._end(ApiError(400, "this is no valid HTTP request", code="invalid_http"))

    def _watch(self) -> None:
        between = self.cycle is None or self.cycle.response_complete
        if not between:
            self._unwatch()
        elif self._timer is None and not self.transport.is_closing():
            self._timer = self.loop.call_later(self.head_seconds, self._slow)

    def _unwatch(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _slow(self) -> None:
        self._timer = None
        self._end(ApiError(408, "the request did not arrive in time", code="head_timeout"))

    def _end(self, err: ApiError) -> None:
        """Say why, where that can still be said, and close."""
        body = json.dumps(err.body).encode()
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
            (b"connection", b"close"),
        ]
        try:
            for part in (
                h11.Response(status_code=err.status, headers=headers),
                h11.Data(data=body),
                h11.EndOfMessage(),
            ):
                self.transport.write(self.conn.send(part))
        except h11.LocalProtocolError:  # in the middle of an answer
            pass
        self.transport.close()


def protocol(head_seconds: float, most: int) -> type[Wire]:
    """Return the protocol with these bounds: seconds for a head, and connections at once."""
    return type("Wire", (Wire,), {"head_seconds": head_seconds, "most": most})
