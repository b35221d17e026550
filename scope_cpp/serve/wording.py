"""Errors of the engine as a client is told them.

The engine names settings by the flags of the command. A client of the server has none: what is a
field of a request is named by that, and of the rest it is said that it belongs to the server.
"""

from __future__ import annotations

import re

from scope_cpp.errors import NoRoom, ScopeError, TooLong, UsageError
from scope_cpp.serve.errors import ApiError, bad_request
from scope_cpp.wording import FLAG

FIELDS = {
    "--policy": "policy",
    "--prefill": "prefill",
    "--granularity": "granularity",
    "--budget": "budget",
    "-o": "options",
    "-n": "max_tokens",
}
OF_THE_SERVER = (
    *("--cells", "--prefix-cache", "--chat-template", "--chat-template-file", "--flash-attn"),
    *("-c", "-fa", "-b", "-ub", "-ctk", "-ctv", "-np"),
)

# commands of the chat, which say how a thing is done there
_COMMAND = re.compile(r" \(/[a-z]+\)")


def for_clients(text: str) -> str:
    """Return an error of the engine in the words of the interface.

    >>> for_clients("give --budget 2048 or more, or a larger -c")
    'give budget 2048 or more, or a larger -c (only the server is started with -c)'
    """
    named = [flag for flag in dict.fromkeys(FLAG.findall(text)) if flag in OF_THE_SERVER]
    text = _COMMAND.sub("", text)
    text = FLAG.sub(lambda found: FIELDS.get(found[0], found[0]), text)
    return f"{text} (only the server is started with {', '.join(named)})" if named else text


def refusal(err: ScopeError, param: str | None = None) -> ApiError:
    """Return what a client is told of a request that the engine refuses.

    Parameters
    ----------
    err
    param
        The field that the prompt came from.
    """
    text = for_clients(str(err))
    if isinstance(err, (TooLong, NoRoom)):
        return bad_request(text, param, "context_length_exceeded")
    if isinstance(err, UsageError):
        return bad_request(text)
    return ApiError(500, text, code="engine_error")
