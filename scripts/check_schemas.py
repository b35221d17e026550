"""Let a model answer under many JSON schemas, and check every answer that ended by itself.

    python scripts/check_schemas.py MODEL.gguf [--seeds 5] [--tokens 160]

Each schema is answered with each seed, in turn as the model likes it (temperature 0.8) and nearly
at random (1.5, no top-k or top-p), where the model itself hardly ever keeps to a schema. An answer
whose finish reason is ``stop`` must be JSON that the package jsonschema takes as valid. The exit
status is 1 if one is not.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]

from scope_cpp.engine.generate import generate
from scope_cpp.engine.model import Model
from scope_cpp.engine.sampling_params import SamplingParams
from scope_cpp.engine.settings import Settings

VALIDATOR = jsonschema.Draft202012Validator
HOT: dict[str, Any] = {"temp": 1.5, "top_k": 0, "top_p": 1.0, "min_p": 0.0}
ASKED = "Describe a person, a place or a thing that you like, as a JSON object."

_PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "minLength": 1, "maxLength": 30},
        "age": {"type": "integer", "minimum": 0, "maximum": 120},
        "email": {"type": "string", "format": "email", "maxLength": 40},
    },
    "required": ["name", "age"],
}
_POINT = {"type": "array", "items": {"type": "number"}, "minItems": 2, "maxItems": 2}
SCHEMAS: dict[str, Any] = {
    "person": _PERSON,
    "closed": {**_PERSON, "additionalProperties": False},
    "people": {"type": "array", "items": _PERSON, "minItems": 1, "maxItems": 2},
    "as pydantic writes": {
        "$defs": {"Person": _PERSON, "Mood": {"enum": ["glad", "sad", 'so-"so"', "a\\b\n"]}},
        "type": "object",
        "title": "Report",
        "properties": {
            "who": {"$ref": "#/$defs/Person"},
            "mood": {"$ref": "#/$defs/Mood"},
            "note": {"anyOf": [{"type": "string", "maxLength": 20}, {"type": "null"}]},
        },
        "required": ["who", "mood"],
    },
    "text": {"type": "string", "maxLength": 60},
    "choice": {"enum": ["yes", "no", None, 3, {"a": [1, "é😀"]}]},
    "number": {"type": "number", "exclusiveMinimum": 0, "maximum": 1},
    "quarter": {"type": "number", "multipleOf": 0.25, "minimum": -3, "maximum": 3},
    "date": {"type": "object", "properties": {"on": {"format": "date", "type": "string"}},
             "required": ["on"]},
    "times": {"type": "array", "items": {"type": "string", "format": "date-time"}, "maxItems": 2},
    "address": {"type": "string", "anyOf": [{"format": "ipv4"}, {"format": "uuid"}]},
    "pattern": {"type": "string", "pattern": r"^[A-Z]{2}-\d{3}(?:-[a-z]+)?$", "maxLength": 16},
    "types": {"type": ["integer", "boolean", "null"], "maximum": 50},
    "tuple": {"type": "array", "prefixItems": [{"const": "point"}, _POINT], "items": False,
              "minItems": 2},
    "both": {
        "allOf": [
            {"properties": {"a": {"minimum": 3}}, "required": ["a"]},
            {"properties": {"a": {"type": "integer", "maximum": 9}}},
        ],
        "type": "object",
        "properties": {"a": True},
        "additionalProperties": {"type": "boolean"},
        "maxProperties": 3,
    },
    "one of": {
        "oneOf": [
            {
                "type": "object",
                "properties": {"kind": {"const": kind}, "size": size},
                "required": ["kind", "size"],
            }
            for kind, size in (("cat", {"type": "integer"}), ("dog", {"enum": ["s", "m", "l"]}))
        ]
    },
    "tree": {
        "type": "object",
        "properties": {
            "v": {"type": "integer", "minimum": -9, "maximum": 9},
            "sub": {"type": "array", "items": {"$ref": "#"}, "maxItems": 2},
        },
        "required": ["v"],
    },
    "names": {
        "type": "object",
        "patternProperties": {"^[a-c]_": {"type": "null"}},
        "additionalProperties": False,
        "maxProperties": 2,
    },
    "anything": {},
    "object": {"type": "object"},
}  # fmt: skip


def answer(model: Model, schema: Any, n: int, **sampling: Any) -> tuple[str, str | None]:
    """Return a text and its finish reason."""
    text, last = generate(
        model,
        [{"role": "user", "content": ASKED}],
        n_predict=n,
        sampling=SamplingParams(json_schema=json.dumps(schema), **sampling),
        settings=Settings(n_threads=1, n_threads_batch=1),
    )
    return text, last.finish_reason


def fault(schema: Any, text: str) -> str | None:
    """Return what is wrong with an answer, None if it is valid."""
    try:
        VALIDATOR(schema, format_checker=VALIDATOR.FORMAT_CHECKER).validate(json.loads(text))
    except (ValueError, jsonschema.ValidationError) as err:
        return " ".join(str(err).split())[:200]
    return None


def main(argv: list[str] | None = None) -> int:
    """Print a row for each schema and return the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=160)
    args = parser.parse_args(argv)
    told: Counter[str] = Counter()
    with Model.load(args.model) as model:
        for name, schema in SCHEMAS.items():
            row: Counter[str] = Counter()
            for seed in range(args.seeds):
                text, reason = answer(
                    model, schema, args.tokens, seed=seed, **(HOT if seed % 2 else {"temp": 0.8})
                )
                wrong = fault(schema, text) if reason == "stop" else None
                row["cut" if reason != "stop" else "invalid" if wrong else "valid"] += 1
                if wrong:
                    print(f"fault: {name}, seed {seed}: {wrong}: {text[:200]!r}")
            told += row
            print(f"{name:<20} {dict(row)}", flush=True)
    print(f"{len(SCHEMAS)} schemas, {args.seeds} seeds: {dict(told)}")
    return 1 if told["invalid"] else 0


if __name__ == "__main__":
    sys.exit(main())
