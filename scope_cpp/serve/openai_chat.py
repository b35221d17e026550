"""``/v1/chat/completions``: messages in, messages out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from scope_cpp.engine.parallel import Alternative
from scope_cpp.engine.rendering import Rendering
from scope_cpp.errors import ScopeError, UsageError
from scope_cpp.serve import schema
from scope_cpp.serve.check import check
from scope_cpp.serve.choice import Alternatives, Piece, logprob
from scope_cpp.serve.errors import ApiError, bad_request
from scope_cpp.serve.form import Asked, Form, Object, asked
from scope_cpp.serve.rows import make_rows
from scope_cpp.serve.serving import Serving
from scope_cpp.serve.wording import for_clients

PATH = "/v1/chat/completions"


def prepare(body: Object, serving: Serving) -> Asked:
    """Check a request and turn it into rows; takes a while, and may run in any thread.

    Raises
    ------
    ApiError
    """
    check(body, schema.chat(serving.n_predict))
    serving.require_model(body)
    chat = _render(serving, body["messages"])
    tokens = serving.tokenize(body, chat.text, "messages", parse_special=True, chat=True)
    rows = make_rows(
        serving,
        body,
        [tokens],
        param="messages",
        longest=serving.n_predict,
        chat=chat,
        logprobs=_logprobs(body),
    )
    return asked(body, rows, [chat.text], "messages")


def _render(serving: Serving, messages: Sequence[Object]) -> Rendering:
    plain = [
        {"role": schema.role(message["role"]), "content": _text(message["content"])}
        for message in messages
    ]
    try:
        chat = Rendering.of(serving.model, plain, serving.template)
        chat.prepare()
        return chat
    except UsageError as err:
        raise bad_request(for_clients(str(err)), "messages") from None
    except ScopeError as err:
        raise ApiError(500, for_clients(str(err)), code="template_error") from None


def _text(content: str | list[dict[str, str]]) -> str:
    return content if isinstance(content, str) else "\n".join(part["text"] for part in content)


def _logprobs(body: Object) -> int | None:
    top = body.get("top_logprobs")
    if not body.get("logprobs"):
        if top is not None:
            raise bad_request("top_logprobs needs logprobs to be true", "top_logprobs")
        return None
    return top or 0


@dataclass
class ChatForm(Form):
    """The form of answers; `logprobs`: whether they tell those."""

    logprobs: bool = False
    prefix: ClassVar[str] = "chatcmpl"
    whole_kind: ClassVar[str] = "chat.completion"
    chunk_kind: ClassVar[str] = "chat.completion.chunk"

    def opening(self, index: int) -> Object | None:
        """Return the role, which comes first."""
        return self._part(index, {"role": "assistant", "content": ""}, None, None)

    def part(self, index: int, piece: Piece) -> Object:
        """Return new text."""
        delta: Object = {"content": piece.text} if piece.text or piece.tokens else {}
        told = self._told([piece]) if piece.tokens else None
        return self._part(index, delta, told, piece.finish_reason)

    def choice(self, index: int, pieces: Sequence[Piece]) -> Object:
        """Return a message."""
        content = "".join(piece.text for piece in pieces)
        return {
            "index": index,
            "message": {"role": "assistant", "content": content, "refusal": None},
            "logprobs": self._told(pieces) if self.logprobs else None,
            "finish_reason": pieces[-1].finish_reason,
        }

    def _part(self, index: int, delta: Object, told: Object | None, reason: str | None) -> Object:
        return {"index": index, "delta": delta, "logprobs": told, "finish_reason": reason}

    def _told(self, pieces: Sequence[Piece]) -> Object:
        tokens = [_token(alternatives) for piece in pieces for alternatives in piece.tokens]
        return {"content": tokens, "refusal": None}


def _token(alternatives: Alternatives) -> Object:
    own, *likely = alternatives
    return {**_entry(own), "top_logprobs": [_entry(other) for other in likely]}


def _entry(token: Alternative) -> dict[str, Any]:
    return {
        "token": token.text.decode("utf-8", errors="replace"),
        "logprob": logprob(token),
        "bytes": list(token.text),
    }
