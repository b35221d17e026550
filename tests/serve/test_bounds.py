from __future__ import annotations

import json
from typing import Any

import pytest

from scope_cpp.errors import UsageError
from scope_cpp.serve.bounds import require_modest, written_out


@pytest.mark.parametrize(
    ("pattern", "length"),
    [
        ("abc", 3),
        ("ab{3}", 4),
        ("(ab){3}", 6),
        ("(?:ab)+", 4),
        ("(ab|c)?", 3),
        ("((a?){10}){10}", 100),
        ("a{2,}", 3),
        ("a{,4}", 4),
        ("a{0}", 1),
        (r"\{3}[a{9}\]]{2}", 5),
        ("a{99999999999999999999}", 99999999999999999999),
        ("", 0),
        (")", 0),
        ("(((a", 1),
    ],
)
def test_repetitions_count_as_often_as_they_are_written(pattern: str, length: int) -> None:
    assert written_out(pattern) == length


def nested(pattern: str) -> dict[str, Any]:
    return {"type": "object", "properties": {"a": {"items": {"anyOf": [{"pattern": pattern}]}}}}


@pytest.mark.parametrize(
    ("schema", "phrase"),
    [
        (nested("^((a?){100}){100}$"), "written out"),
        ({"anyOf": [nested("^(a?){100}$")] * 3}, "written out"),
        ({"type": "array", "minItems": 100_000}, "minItems"),
        ({"anyOf": [{"type": "array", "maxItems": 1e9}]}, "maxItems"),
        ({"enum": ["x" * 40_000]}, "characters"),
    ],
)
def test_what_would_keep_all_others_waiting(schema: Any, phrase: str) -> None:
    with pytest.raises(UsageError, match=phrase):
        require_modest(json.dumps(schema))


def test_usual_schemas_pass() -> None:
    date = {"type": "string", "pattern": r"^\d{4}-\d{2}-\d{2}$", "maxLength": 200}
    require_modest(json.dumps({"type": "array", "items": date, "minItems": 3, "maxItems": 100}))
