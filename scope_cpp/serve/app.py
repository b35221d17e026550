"""The routes, and what each of them does."""

from __future__ import annotations

import json
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from scope_cpp.errors import UsageError
from scope_cpp.policies import decode_policies
from scope_cpp.serve import metrics as counters
from scope_cpp.serve import openai_chat, openai_completions, schema, static
from scope_cpp.serve.check import check
from scope_cpp.serve.choice import Choice
from scope_cpp.serve.desk import Desk
from scope_cpp.serve.errors import bad_request, shutting_down
from scope_cpp.serve.form import Asked, Form
from scope_cpp.serve.limits import Disconnected, parse, read_body
from scope_cpp.serve.openai_chat import ChatForm
from scope_cpp.serve.openai_completions import TextForm
from scope_cpp.serve.openapi import describe
from scope_cpp.serve.options import Options
from scope_cpp.serve.schemas import Schemas
from scope_cpp.serve.serving import Serving, unknown_model
from scope_cpp.serve.streaming import Answer, EventStream, gone, late, unless
from scope_cpp.serve.wording import refusal
from scope_cpp.serve.worker import Worker

CLIENT_GONE = 499  # nobody sees it but the counters
_SLICE = 4096  # tokens that are written as JSON at once: other threads stand still meanwhile

T = TypeVar("T")
Object = dict[str, Any]
Prepare = Callable[[Object, Serving], Asked]


@dataclass
class Api:
    """What the routes need.

    Attributes
    ----------
    serving, desk, worker, options
        What answers are made with, where requests are read, who answers, and within which limits.
    metrics
        Shown at ``/metrics``.
    example
        A message that the model knows, for the page.
    note
        Called with a line for the log.
    """

    serving: Serving
    desk: Desk
    worker: Worker
    options: Options
    metrics: counters.Metrics
    example: str | None = None
    note: Callable[[str], None] = lambda line: None
    started: int = field(default_factory=lambda: int(time.time()))

    def __post_init__(self) -> None:
        self._schemas = Schemas(self.serving.model)

    def routes(self) -> list[Route]:
        """Return all routes."""
        gets: dict[str, Any] = {
            "/v1/models": self.models,
            "/v1/models/{id:path}": self.model,
            "/health": self.health,
            "/metrics": self.show_metrics,
            "/openapi.json": self.openapi,
        }
        posts: dict[str, Any] = {
            openai_chat.PATH: self.chat,
            openai_completions.PATH: self.completions,
            "/tokenize": self.tokenize,
            "/detokenize": self.detokenize,
        }
        return [
            *(Route(path, endpoint, methods=["GET"]) for path, endpoint in gets.items()),
            *(Route(path, endpoint, methods=["POST"]) for path, endpoint in posts.items()),
            *static.routes(),
        ]

    # -- answers --------------------------------------------------------------------------

    async def chat(self, request: Request) -> Response:
        """``POST /v1/chat/completions``."""
        return await self._answer(
            request,
            openai_chat.prepare,
            lambda body: ChatForm(self.serving.name, logprobs=bool(body.get("logprobs"))),
        )

    async def completions(self, request: Request) -> Response:
        """``POST /v1/completions``."""
        return await self._answer(
            request,
            openai_completions.prepare,
            lambda body: TextForm(self.serving.name, logprobs=body.get("logprobs") is not None),
        )

    async def _answer(
        self, request: Request, prepare: Prepare, form_of: Callable[[Object], Form]
    ) -> Response:
        def read(raw: bytes) -> tuple[Object, Asked]:
            body = parse(raw)
            return body, prepare(body, self.serving)

        deadline = time.monotonic() + self.options.timeout
        try:
            body, asked = await self._read(request, read, deadline)
            asked = await self._prepared(request, self._schemas.compiled(asked), deadline)
            form = form_of(body)
            self._log(form.id, asked.prompts)
            return await self._send(request, asked, form, deadline)
        except Disconnected:
            return Response(status_code=CLIENT_GONE)

    async def _read(self, request: Request, work: Callable[[bytes], T], deadline: float) -> T:
        """Return what `work` makes of the body, beside the loop."""
        limits = self.options.max_body, self.options.body_timeout
        raw = await unless(
            read_body(request.receive, request.headers, *limits), self.worker.drained()
        )
        return await self._prepared(request, self.desk.run(len(raw), work, raw), deadline)

    async def _prepared(self, request: Request, work: Awaitable[T], deadline: float) -> T:
        """Return what `work` returns, as long as somebody waits for it and is to have an answer."""
        return await unless(work, gone(request.receive), late(deadline), self.worker.drained())

    async def _send(self, request: Request, asked: Asked, form: Form, deadline: float) -> Response:
        """Wait for the first token, so that what fails before it has a status of its own."""
        ticket = self.worker.open(_client(request), asked.rows, asked.picture)
        piece = self.serving.model.token_to_piece
        answer = Answer(
            asked, form, ticket, [Choice(piece, asked.param) for _ in asked.rows], deadline
        )
        ends = gone(request.receive), late(deadline)
        streams = False
        try:
            if not asked.stream:
                return JSONResponse(await unless(answer.whole(), *ends))
            first = await unless(anext(ticket), *ends)
            if first[1].error is not None:
                raise refusal(first[1].error, asked.param)
            if first[1].cut:
                raise shutting_down()
            streams = True
            return EventStream(answer, first, done=ticket.close)
        finally:
            if not streams:
                ticket.close()

    def _log(self, id: str, prompts: Sequence[object]) -> None:
        if self.options.log_prompts:
            for prompt in prompts:
                self.note(f"{id} {prompt!r}")

    # -- the rest -------------------------------------------------------------------------

    async def models(self, request: Request) -> Response:
        """``GET /v1/models``."""
        return JSONResponse({"object": "list", "data": [self._model()]})

    async def model(self, request: Request) -> Response:
        """``GET /v1/models/NAME``."""
        name = request.path_params["id"]
        if name != self.serving.name:
            raise unknown_model(name, self.serving.name)
        return JSONResponse(self._model())

    def _model(self) -> Object:
        settings = self.serving.settings
        scope = {
            "policy": settings.policies()[0].name,
            "policies": sorted(decode_policies()),
            "budget": settings.budget,
            "cells": self.serving.n_cells,
            "n_predict": self.serving.n_predict,
            "example": self.example,
        }
        return {
            "id": self.serving.name,
            "object": "model",
            "created": self.started,
            "owned_by": "scope-cpp",
            "scope": scope,
        }

    async def tokenize(self, request: Request) -> Response:
        """``POST /tokenize``: a text in tokens."""
        return await self._simple(request, schema.TOKENIZE, self._tokenize)

    async def detokenize(self, request: Request) -> Response:
        """``POST /detokenize``: tokens as a text."""
        return await self._simple(request, schema.DETOKENIZE, self._detokenize)

    async def _simple(
        self, request: Request, fields: Object, work: Callable[[Object], bytes]
    ) -> Response:
        def run(raw: bytes) -> bytes:
            body = parse(raw)
            check(body, fields)
            try:
                return work(body)
            except UsageError as err:
                raise bad_request(str(err)) from None

        try:
            answer = await self._read(request, run, time.monotonic() + self.options.timeout)
        except Disconnected:
            return Response(status_code=CLIENT_GONE)
        return Response(answer, media_type="application/json")

    def _tokenize(self, body: Object) -> bytes:
        model = self.serving.model
        tokens: list[Any] = model.tokenize(
            body["content"],
            add_special=bool(body.get("add_special")),
            parse_special=body.get("parse_special") is not False,
        )
        if body.get("with_pieces"):
            pieces = {
                token: _piece(model.token_to_piece(token, special=True)) for token in set(tokens)
            }
            tokens = [{"id": token, "piece": pieces[token]} for token in tokens]
        slices = (tokens[start : start + _SLICE] for start in range(0, len(tokens), _SLICE))
        return b'{"tokens":[%s]}' % b",".join(_dump(part)[1:-1] for part in slices)

    def _detokenize(self, body: Object) -> bytes:
        return _dump({"content": self.serving.model.detokenize(body["tokens"], special=True)})

    async def health(self, request: Request) -> Response:
        """``GET /health``: 200, or 503 where no answers are to be had."""
        if self.worker.draining or self.worker.failure is not None:
            raise shutting_down()
        return JSONResponse({"status": "ok"})

    async def show_metrics(self, request: Request) -> Response:
        """``GET /metrics``."""
        return PlainTextResponse(
            self.metrics.render(), headers={"Content-Type": counters.CONTENT_TYPE}
        )

    async def openapi(self, request: Request) -> Response:
        """``GET /openapi.json``."""
        return JSONResponse(describe(self.serving.n_predict, bool(self.options.api_keys)))


def _client(request: Request) -> tuple[str, int | None]:
    """Who takes turns with others: an address, and its key."""
    host = request.client.host if request.client else ""
    return host, request.scope.get("scope_key")


def _dump(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def _piece(piece: bytes) -> str | list[int]:
    """A token's text, or its bytes where they are part of a character."""
    try:
        return piece.decode("utf-8")
    except UnicodeDecodeError:
        return list(piece)
