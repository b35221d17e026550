"""Settings and sampling parameters as JSON, and back with every type checked."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, fields
from types import NoneType, UnionType
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from scope_cpp.engine.settings import Settings

T = TypeVar("T")

# fields of Settings that say how fast it is computed, not what: the caller's own are kept
COMPUTE = frozenset({"n_batch", "n_threads", "n_threads_batch", "offload_kqv"})

_FLAGS = {
    "granularity": "--granularity",
    "type_k": "-ctk",
    "type_v": "-ctv",
    "flash_attn": "-fa",
}


def to_json(value: Any) -> dict[str, Any]:
    """Return the fields of a dataclass, but those in `COMPUTE`, as JSON can hold them."""
    names = [item.name for item in fields(value) if item.name not in COMPUTE]
    return {name: _plain(getattr(value, name)) for name in names}


def from_json(cls: type[T], values: Any) -> T:
    """Return the dataclass that `to_json` made `values` from; a field left out has its default.

    Raises
    ------
    ValueError
        If `values` is nothing of the sort.
    UsageError
        If `cls` refuses them.
    """
    known = {name: kind for name, kind in get_type_hints(cls).items() if name not in COMPUTE}
    if not isinstance(values, dict) or not values.keys() <= known.keys():
        raise ValueError(f"its {cls.__name__} has unknown fields")
    for item in fields(cls):  # type: ignore[arg-type]
        if item.name not in values and item.default is item.default_factory is MISSING:
            raise ValueError(f"its {cls.__name__} has no {item.name}")
    return cls(**{name: typed(name, value, known[name]) for name, value in values.items()})


def typed(name: str, value: Any, kind: Any) -> Any:
    """Return a value from JSON as the type `kind`, a field's annotation.

    Raises
    ------
    ValueError
        If it is of another type.
    """
    found = list(_read(value, kind))
    if not found:
        raise ValueError(f"its {name} is {str(value)[:40]!r}")
    return found[0]


def differences(saved: Settings, here: Settings) -> Iterator[tuple[str, str, str]]:
    """Yield what must be the same and is not: as it was saved, as it is here, and the remedy."""
    kinds = ("policy", "prefill")
    for kind, old, new in zip(kinds, saved.policies(), here.policies(), strict=True):
        if old.name != new.name:
            yield f"{kind} {old.name}", new.name, f"--{kind} {old.name}"
            continue
        for item in fields(old):
            was, now = (_option(getattr(policy, item.name)) for policy in (old, new))
            if was != now:
                yield f"{item.name}={was} of {old.name}", now, f"-o {item.name}={was}"
    for name, flag in _FLAGS.items():
        was, now = getattr(saved, name), getattr(here, name)
        if was != now:
            yield f"{name} {was}", now, f"{flag} {was}"


def _option(value: Any) -> str:
    return "auto" if value is None else str(value)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):  # keys of JSON are text
        return [[key, _plain(item)] for key, item in value.items()]
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return "-inf" if value == -math.inf else value


def _read(value: Any, kind: Any) -> Iterator[Any]:
    """Yield `value` if it is of the type `kind`."""
    origin, args = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        for one in args:
            yield from _read(value, one)
    elif origin is tuple and isinstance(value, list):
        items = [list(_read(item, args[0])) for item in value]
        if all(items):
            yield tuple(item[0] for item in items)
    elif origin is not None and issubclass(origin, Mapping) and isinstance(value, list):
        pairs = [list(_pair(item, *args)) for item in value]
        if all(pairs):
            yield dict(pair[0] for pair in pairs)
    elif kind is float and value == "-inf":
        yield -math.inf
    elif kind is float and type(value) in (int, float) and abs(value) < sys.float_info.max:
        yield float(value)
    elif kind in (int, str, bool, NoneType) and type(value) is kind:
        yield value


def _pair(item: Any, key: Any, value: Any) -> Iterator[tuple[Any, Any]]:
    if isinstance(item, list) and len(item) == 2:
        for first in _read(item[0], key):
            for second in _read(item[1], value):
                yield first, second
