r"""JSON for stdout: valid and harmless to print, whatever strings and numbers are in it."""

from __future__ import annotations

import json
import math
import re
from typing import Any

# what `printable` would make visible and JSON does not escape by itself
_RAW = re.compile(r"[\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def json_text(value: Any, indent: int | None = None) -> str:
    r"""Return `value` as JSON with a newline; a number that JSON does not have is ``null``.

    >>> json_text({"name": "größe\u202e", "loss": float("nan")})
    '{"name": "größe\\u202e", "loss": null}\n'
    """
    text = json.dumps(_finite(value), indent=indent, ensure_ascii=False, allow_nan=False)
    return _RAW.sub(lambda match: f"\\u{ord(match[0]):04x}", text) + "\n"


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return value
