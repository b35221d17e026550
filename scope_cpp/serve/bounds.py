"""How large a JSON schema of a client may be, whose grammar everybody's next token waits for.

llama.cpp writes repetitions out, and a grammar that can go on in many ways at once is looked up in
all of them at every token: time grows with a power of the number written out, and nothing stops it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from scope_cpp.errors import UsageError

MOST_CHARACTERS = 1 << 15
MOST_COUNT = 1000  # of items, characters, properties
MOST_WRITTEN_OUT = 256  # characters of all patterns together, after their repetitions

_COUNTS = ("minItems", "maxItems", "minLength", "maxLength", "minProperties", "maxProperties")
_TOKEN = re.compile(
    r"""(?P<open>\((?:\?[:=!])?) | (?P<close>\)) | (?P<bar>\|)
    | \{(?P<low>\d*)(?P<comma>,?)(?P<high>\d*)\} | (?P<sign>[*+?])
    | \\. | \[(?:\\.|[^\]\\])*\] | .""",
    re.VERBOSE | re.DOTALL,
)


def require_modest(schema: str) -> None:
    """Refuse a JSON schema whose grammar could become too large.

    Raises
    ------
    UsageError
    """
    if len(schema) > MOST_CHARACTERS:
        raise UsageError(f"the JSON schema has {len(schema)} characters: at most {MOST_CHARACTERS}")
    length = sum(map(written_out, _patterns(json.loads(schema))))
    if length > MOST_WRITTEN_OUT:
        raise UsageError(
            f"the patterns of the JSON schema come to more than {MOST_WRITTEN_OUT} characters when "
            "their repetitions are written out: repeat less"
        )


def _patterns(value: Any) -> Iterator[str]:
    """Yield all patterns; refuse counts that are too large."""
    if isinstance(value, dict):
        for name in _COUNTS:
            count = value.get(name)
            if isinstance(count, (int, float)) and count > MOST_COUNT:
                raise UsageError(f"{name} of the JSON schema is {count}: at most {MOST_COUNT}")
        if isinstance(value.get("pattern"), str):
            yield value["pattern"]
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from _patterns(item)


def written_out(pattern: str) -> int:
    """Length of a regular expression whose repetitions are written out; unbounded ones once more.

    >>> written_out("ab{3}(cd?){2,10}")
    24
    """
    groups, last = [0], 0
    for token in _TOKEN.finditer(pattern):
        if token["open"]:
            groups.append(0)
            last = 0
        elif token["close"]:
            last = groups.pop() if len(groups) > 1 else 0
            groups[-1] += last
        elif token["sign"] or token["low"] is not None:
            # what is repeated is in the sum once
            more = last * (_times(token) - 1)
            groups[-1] += more
            last += more
        else:
            last = 0 if token["bar"] else 1
            groups[-1] += last
    return sum(groups)


def _times(token: re.Match[str]) -> int:
    if token["sign"]:
        return 1 if token["sign"] == "?" else 2
    low, high = int(token["low"] or 0), int(token["high"] or 0)
    return max(1, high if token["high"] else low + 1 if token["comma"] else low)
