"""Errors as OpenAI's interface words them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    429: "rate_limit_error",
    500: "server_error",
    503: "server_error",
    504: "server_error",
}
_MOST = 500  # characters of a message: what a client sent is never echoed at length


class ApiError(Exception):
    """A request that is refused or failed.

    Attributes
    ----------
    status
        Of HTTP.
    message
        One line: the cause and the remedy.
    param
        Where in the request, such as ``messages.0.content``.
    code
        For programs.
    headers
        Of the answer, beside the usual ones.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.param, self.code = status, param, code
        self.message = one_line(message)
        self.headers = dict(headers or {})

    @property
    def body(self) -> dict[str, Any]:
        """The object that is sent."""
        kind = _TYPES.get(self.status, "invalid_request_error")
        error = {"message": self.message, "type": kind, "param": self.param, "code": self.code}
        return {"error": error}


def bad_request(message: str, param: str | None = None, code: str | None = None) -> ApiError:
    """A request that says something wrong."""
    return ApiError(400, message, param=param, code=code or "invalid_value")


def shutting_down() -> ApiError:
    """The server takes nothing new."""
    return ApiError(
        503, "the server is shutting down", code="shutting_down", headers={"Retry-After": "5"}
    )


def internal() -> ApiError:
    """Something that should not happen; what it was is for the server's log."""
    return ApiError(500, "internal error: see the server's log", code="internal_error")


def one_line(text: str, most: int = _MOST) -> str:
    """Return `text` in one line of at most `most` characters, all of them encodable."""
    line = " ".join(text.split()).encode("utf-8", errors="replace").decode()
    return line if len(line) <= most else line[: most - 1] + "…"
