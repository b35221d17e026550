"""What is around all routes: who is let in, errors in OpenAI's form, counts and the log."""

from __future__ import annotations

import asyncio
import time
import traceback
from collections.abc import Callable
from typing import Any

from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response

from scope_cpp.serve import static
from scope_cpp.serve.app import Api
from scope_cpp.serve.auth import Guard
from scope_cpp.serve.errors import ApiError, internal, one_line
from scope_cpp.serve.limits import Receive
from scope_cpp.serve.metrics import OTHER, Metrics

_OPEN = {"/health", *(route.path for route in static.routes())}  # without a key
_SAID = {404: "unknown_url", 405: "method_not_allowed"}


class Gate:
    """An ASGI application: the routes, with all that holds for each of them.

    Parameters
    ----------
    api
        The routes.
    guard
        Who is let in.
    metrics
        Told of each request.
    note, report
        Called with a line for each request; with what should not happen.
    """

    def __init__(
        self,
        api: Api,
        guard: Guard,
        metrics: Metrics,
        note: Callable[[str], None],
        report: Callable[[str], None],
    ) -> None:
        handlers: Any = {ApiError: _refused, HTTPException: _refused_by_route, Exception: _failed}
        self._app = Starlette(routes=api.routes(), exception_handlers=handlers)
        self._app.router.redirect_slashes = False
        self._guard, self._metrics = guard, metrics
        self._note, self._report = note, report

    async def __call__(self, scope: Any, receive: Receive, send: Any) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            return
        started, status = time.perf_counter(), 0

        async def sending(message: Any) -> None:
            nonlocal status
            status = message.get("status", status)
            await send(message)

        try:
            await self._pass(scope, receive, sending)
        except (Exception, asyncio.CancelledError) as err:
            lines = traceback.format_exception(err)
            self._report(one_line(f"{type(err).__name__}: {err} ({lines[-2].strip()})"))
            if not status:  # `_failed` has not told the client
                await _response(internal())(scope, receive, sending)
        finally:
            self._metrics.request(_route(scope), status)
            seconds = time.perf_counter() - started
            who = scope["client"][0] if scope["client"] else "?"
            self._note(f"{who} {scope['method']} {scope['path']!r} {status} {seconds:.3f} s")

    async def _pass(self, scope: Any, receive: Receive, send: Any) -> None:
        try:
            scope["scope_key"] = self._guard.admit(Headers(scope=scope), scope["path"] in _OPEN)
        except ApiError as err:
            await _response(err)(scope, receive, send)
            return
        await self._app(scope, receive, send)


def _route(scope: Any) -> str:
    """The route's path, which is one of few."""
    route = scope.get("route")
    return getattr(route, "path", None) or OTHER


def _response(err: ApiError) -> Response:
    return JSONResponse(err.body, err.status, headers=err.headers)


async def _refused(request: Any, err: ApiError) -> Response:
    return _response(err)


async def _refused_by_route(request: Any, err: HTTPException) -> Response:
    if err.status_code == 404:
        message = "there is no such address; /openapi.json has all that there are"
    else:
        message = f"this address takes {(err.headers or {}).get('Allow', 'another method')} only"
    code = _SAID.get(err.status_code)
    return _response(ApiError(err.status_code, message, code=code, headers=err.headers))


async def _failed(request: Any, err: Exception) -> Response:
    return _response(internal())
