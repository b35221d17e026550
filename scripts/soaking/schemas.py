"""The JSON schemas that cost most among those that are accepted, by what makes them costly."""

from __future__ import annotations

from typing import Any

_SELF = {"$ref": "#/$defs/a"}


def _alike(n: int, branch: dict[str, Any]) -> dict[str, Any]:
    """`n` ways to read the same value, at each of its levels."""
    return {"$defs": {"a": {"anyOf": [branch] * n}}, **_SELF}


SCHEMAS: dict[str, Any] = {
    # costly to compile
    "20,000 values": {"enum": [f"value {i}" for i in range(20_000)]},
    "690 properties": {"type": "object", "properties": {f"p{i}": {} for i in range(690)}},
    "190 objects": {
        "type": "object",
        "properties": {
            f"p{i}": {"type": "object", "properties": {"x": {"type": "string"}}} for i in range(190)
        },
    },
    "200 apart": {"oneOf": [{"const": i} for i in range(200)]},
    "190 required": {"anyOf": [{"required": [f"x{i}"]} for i in range(190)]},
    "minItems within minItems": {
        "type": "array",
        "minItems": 10_000,
        "items": {"type": "array", "minItems": 10_000},
    },
    # costly to follow
    "190 arrays alike": _alike(190, {"type": "array", "items": _SELF}),
    "190 counted arrays": _alike(190, {"type": "array", "items": _SELF, "maxItems": 2}),
    "690 properties within": {
        "$defs": {"a": {"type": "object", "properties": {f"p{i}": _SELF for i in range(690)}}},
        **_SELF,
    },
    "200 lengths": {
        "anyOf": [{"type": "string", "minLength": i, "maxLength": 500 + i} for i in range(200)]
    },
    "30 loops": {"type": "string", "pattern": "^(.*[a-z]{3}.*){30}$"},
}
