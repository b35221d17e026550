"""What a setting is called in messages: by its flag in the command, by its field in Python.

The engine writes flags. A Python program, which has none, is told the fields of `Settings` and the
arguments of functions; a client of the server the fields of a request (`serve.wording`).
"""

from __future__ import annotations

import re
from collections.abc import Callable

_FIELDS = {
    "--policy": "policy",
    "--prefill": "prefill",
    "--granularity": "granularity",
    "--budget": "budget",
    "-o": "options",
    "-n": "n_predict",
    "-c": "ctx_size",
    "-ctk": "type_k",
    "-ctv": "type_v",
    "-fa": "flash_attn",
    "--flash-attn": "flash_attn",
    "-b": "n_batch",
    "-ub": "n_ubatch",
    "-ngl": "n_gpu_layers",
    "--chat-template": "template",
    "--chat-template-file": "template",
}
FLAG = re.compile(r"(?<![\w-])--?[a-z][a-z-]*")
_OPTION = re.compile(r"(?<![\w-])-o (?=\w+\b)")

_by_flags = False


def speak_of_flags() -> None:
    """Let messages name flags from here on: this process is one of the command's."""
    global _by_flags
    _by_flags = True


def in_use(text: str) -> str:
    """Return a message in the words of the interface that is in use."""
    return text if _by_flags else for_python(text)


def for_python(text: str) -> str:
    """Return a message of the engine with fields in place of flags.

    >>> for_python("give --budget 545 or more, or a smaller -o beta1, or a larger -c")
    'give budget 545 or more, or a smaller option beta1, or a larger ctx_size'
    """
    return FLAG.sub(lambda found: _FIELDS.get(found[0], found[0]), _OPTION.sub("option ", text))


def worded(warn: Callable[[str], None]) -> Callable[[str], None]:
    """Return `warn`, told in the words of the interface in use."""
    return lambda line: warn(in_use(line))
