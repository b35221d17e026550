"""How answers are sent, at once or as server-sent events, as long as their clients are there."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn, TypeVar

from scope_cpp.serve.choice import Choice, Piece
from scope_cpp.serve.errors import ApiError, internal, shutting_down
from scope_cpp.serve.form import Asked, Form, Object, counts, usage
from scope_cpp.serve.limits import Disconnected, Receive
from scope_cpp.serve.ticket import Ticket, Update

T = TypeVar("T")

_LAST_SECONDS = 5.0  # for a client to take what is left
_DONE = b"data: [DONE]\n\n"
_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),  # proxies shall pass events on at once
]


async def unless(work: Awaitable[T], *ends: Awaitable[NoReturn]) -> T:
    """Return what `work` returns, unless one of `ends` raises before: then `work` is cancelled."""
    tasks: list[asyncio.Future[T]] = [asyncio.ensure_future(one) for one in (work, *ends)]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        return next(task for task in tasks if task.done()).result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def gone(receive: Receive) -> NoReturn:
    """Wait until the client of a request, whose body was read, is gone; raise `Disconnected`."""
    while (await receive())["type"] != "http.disconnect":
        pass
    raise Disconnected


async def late(deadline: float) -> NoReturn:
    """Wait until a time of `time.monotonic`, and raise the error that says so."""
    await asyncio.sleep(deadline - time.monotonic())
    raise ApiError(
        504,
        "the answer took longer than the server allows: ask for fewer tokens",
        code="timeout",
        headers={"X-Should-Retry": "false"},  # OpenAI's clients would
    )


@dataclass
class Answer:
    """The answers to one request.

    Attributes
    ----------
    asked, form
        What was asked, and how answers look.
    ticket
        The rows.
    choices
        One for each row.
    deadline
        Of `time.monotonic`.
    """

    asked: Asked
    form: Form
    ticket: Ticket
    choices: Sequence[Choice]
    deadline: float

    def take(self, index: int, update: Update) -> Piece:
        """Return what is new of an answer.

        Raises
        ------
        ApiError
            If the row failed, or was ended before it began.
        """
        piece = self.choices[index].take(update)
        if update.cut and not self.choices[index].started:
            raise shutting_down()
        return piece

    @property
    def usage(self) -> Object:
        """Tokens so far."""
        return usage(self.asked, self.choices)

    async def whole(self) -> Object:
        """Wait for all answers; return the object to send.

        Raises
        ------
        ApiError
            If one of them failed.
        """
        pieces: list[list[Piece]] = [[] for _ in self.choices]
        async for index, update in self.ticket:
            pieces[index].append(self.take(index, update))
        more = {"scope": [counts(choice) for choice in self.choices]} if self.asked.scope else {}
        return self.form.whole(
            [self.form.choice(i, parts) for i, parts in enumerate(pieces)],
            usage=self.usage,
            **more,
        )

    async def chunks(self, first: tuple[int, Update]) -> AsyncIterator[Object]:
        """Yield the objects of a stream; `first` is the first update, which was waited for."""
        extra = {"usage": None} if self.asked.usage else {}
        for index in range(len(self.choices)):
            opening = self.form.opening(index)
            if opening is not None:
                yield self.form.chunk([opening], **extra)
        index, update = first
        while True:
            piece = self.take(index, update)
            more = {"scope": counts(self.choices[index])} if self.asked.scope else {}
            if piece.text or piece.tokens or piece.finish_reason or self.choices[index].picture:
                yield self.form.chunk([self.form.part(index, piece)], **extra, **more)
            try:
                index, update = await self.ticket.__anext__()
            except StopAsyncIteration:
                break
        if self.asked.usage:
            yield self.form.chunk([], usage=self.usage)


class EventStream:
    """The response that streams an answer; an ASGI application.

    What goes wrong after its first byte is told in an event of its own, as OpenAI does.
    """

    def __init__(self, answer: Answer, first: tuple[int, Update], done: Callable[[], None]) -> None:
        self._answer, self._first, self._done = answer, first, done

    async def __call__(self, scope: Any, receive: Receive, send: Any) -> None:
        """Send it all, as long as the client is there."""
        try:
            await send({"type": "http.response.start", "status": 200, "headers": _HEADERS})
            try:
                await unless(self._send(send), gone(receive), late(self._answer.deadline))
            except Disconnected:
                return
            except ApiError as err:
                await self._end(send, event(err.body) + _DONE)
            except Exception:
                await self._end(send, event(internal().body) + _DONE)
                raise
            else:
                await self._end(send, _DONE)
        finally:
            self._done()

    async def _end(self, send: Any, last: bytes) -> None:
        with contextlib.suppress(asyncio.TimeoutError):  # a client that does not read
            end = {"type": "http.response.body", "body": last}
            await asyncio.wait_for(send(end), _LAST_SECONDS)

    async def _send(self, send: Any) -> None:
        async for chunk in self._answer.chunks(self._first):
            await send({"type": "http.response.body", "body": event(chunk), "more_body": True})


def event(value: Object) -> bytes:
    """Return a server-sent event."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return f"data: {text}\n\n".encode()
