"""What ``$ref`` names within a schema."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import unquote

from scope_cpp.engine.schema.errors import inside, refusal

_INDEX = re.compile(r"0|[1-9][0-9]*")
_IDS = ("$id", "id")
# below these keys lie values, names of properties, or nothing that is a schema
_VALUES = ("const", "enum", "default", "examples", "example")


def find(root: Any, reference: Any, place: str) -> tuple[str, Any]:
    """Return where the schema lies that a reference names, and the schema.

    Parameters
    ----------
    root
        The whole document.
    reference
        Value of the ``$ref`` at `place`.

    Raises
    ------
    UsageError
        For what lies in another document, or nowhere.
    """
    if not isinstance(reference, str):
        raise refusal(place, "a reference must be a text")
    uri, _, fragment = reference.partition("#")
    if uri and uri != _id_of(root):
        raise refusal(place, "only references within the schema, that begin with #, are followed")
    pointer = unquote(fragment)
    if pointer and not pointer.startswith("/"):
        return _anchored(root, pointer, place)
    if _moves_base(root, place):
        raise refusal(place, "references below a nested $id cannot be followed: leave that $id out")
    return _walk(root, pointer, place)


def _walk(root: Any, pointer: str, place: str) -> tuple[str, Any]:
    found, target = "#", root
    for part in pointer.split("/")[1:]:
        key = part.replace("~1", "/").replace("~0", "~")
        if isinstance(target, dict) and key in target:
            target = target[key]
        elif isinstance(target, list) and _INDEX.fullmatch(key) and int(key) < len(target):
            target = target[int(key)]
        else:
            raise refusal(place, "it refers to what is not there")
        found = inside(found, key)
    return found, target


def _anchored(root: Any, name: str, place: str) -> tuple[str, Any]:
    found = [(at, node) for at, node in _nodes(root, "#") if node.get("$anchor") == name]
    if len(found) != 1:
        raise refusal(place, "it refers to an anchor that is not there, or there more than once")
    return found[0]


def _nodes(value: Any, place: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the objects of a document and where they are, without those that are only values."""
    waiting = [(place, value)]
    while waiting:
        at, value = waiting.pop()
        if isinstance(value, dict):
            yield at, value
            waiting += [(inside(at, k), v) for k, v in value.items() if k not in _VALUES]
        elif isinstance(value, list):
            waiting += [(inside(at, i), item) for i, item in enumerate(value)]


def _id_of(node: Any) -> str | None:
    """Identity of a schema without its fragment, which makes it a document of its own."""
    for key in _IDS:
        value = node.get(key) if isinstance(node, dict) else None
        if isinstance(value, str) and value.partition("#")[0]:
            return value.partition("#")[0]
    return None


def _moves_base(root: Any, place: str) -> bool:
    """Whether a schema between the root and `place` has an identity of its own."""
    target, keys = root, place.split("/")[1:]
    for part in keys:
        key = part.replace("~1", "/").replace("~0", "~")
        target = target[int(key)] if isinstance(target, list) else target[key]
        if _id_of(target) is not None:
            return True
    return False
