"""What a caller from Python hands over is checked where it comes in, by its annotation."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import fields
from functools import cache, wraps
from inspect import signature
from numbers import Integral, Real
from pathlib import Path
from reprlib import Repr
from types import NoneType, UnionType
from typing import Any, ParamSpec, TypeVar, Union, get_args, get_origin, get_type_hints

from scope_cpp.errors import WrongValue

P = ParamSpec("P")
T = TypeVar("T")

# What a kind is called, alone and in a list; NumPy's numbers are numbers too
_WORDS: Mapping[Any, tuple[str, str]] = {
    int: ("a whole number", "whole numbers"),
    float: ("a number", "numbers"),
    str: ("a text", "texts"),
    bool: ("True or False", "True or False"),
    Path: ("a path", "paths"),
    NoneType: ("None", "None"),
    Hashable: ("a text, a number or a tuple of them", "texts, numbers or tuples"),
}
_NUMBERS: Mapping[Any, Any] = {int: Integral, float: Real}
_CLASSES: Mapping[Any, Any] = {Path: os.PathLike}
_UNIONS = (Union, UnionType)

_short = Repr()
_short.maxstring = _short.maxother = 60


def checked(*but: str) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """Have a function check its arguments, but some: by a `UsageError` if one is of another kind.

    What is annotated as `Any`, or not at all, is taken as it is. The function gets numbers of
    Python's own, and lists (for a tuple, a tuple).
    """

    def decorate(function: Callable[P, T]) -> Callable[P, T]:
        names = signature(function)
        kinds = cache(lambda: get_type_hints(function))  # some are defined below the function
        by_place = cache(
            lambda: [None if name in but else kinds().get(name) for name in names.parameters]
        )

        @wraps(function)
        def call(*args: P.args, **more: P.kwargs) -> T:
            if not more and all(map(_is_just, args, by_place())):  # as for each token
                return function(*args, **more)
            try:
                bound = names.bind(*args, **more)
            except TypeError:
                return function(*args, **more)  # says itself what is missing or too many
            for name in bound.arguments.keys() & kinds().keys() - set(but):
                bound.arguments[name] = check(name, bound.arguments[name], kinds()[name])
            return function(*bound.args, **bound.kwargs)

        return call

    return decorate


def _is_just(value: Any, kind: Any) -> bool:
    return kind is None or type(value) is kind


def check_fields(values: Any, *, but: Collection[str] = ()) -> None:
    """Check the fields of a frozen dataclass that is being made, as `checked` does, but some.

    Raises
    ------
    UsageError
        For one that is none of what its annotation says.
    """
    kinds = _kinds_of_fields(values.__class__)
    for name in kinds.keys() - set(but):
        object.__setattr__(values, name, check(name, getattr(values, name), kinds[name]))


def check(name: str, value: Any, kind: Any) -> Any:
    """Return `value` as a `kind`, a type or what an annotation says.

    Raises
    ------
    UsageError
        If it is none; the user knows it by `name`.
    """
    for taken in _read(value, kind):
        return taken
    raise WrongValue(name, f"is {_short.repr(value)}: give {_wanted(kind)}")


def is_list(value: Any) -> bool:
    """Whether a value is a list, a tuple, an array or the like, and no text."""
    no_list = isinstance(value, (str, bytes, bytearray, memoryview, Mapping))
    if no_list or not hasattr(value, "__getitem__"):
        return False
    try:
        len(value)
    except TypeError:  # a class, an array without dimensions
        return False
    return True


@cache
def _kinds_of_fields(cls: type) -> dict[str, Any]:
    hints = get_type_hints(cls)
    return {item.name: hints[item.name] for item in fields(cls)}


def _read(value: Any, kind: Any) -> Iterator[Any]:
    """Yield `value` as a `kind`, for each way in which it is one."""
    origin, kinds = get_origin(kind), get_args(kind)
    if kind is Any:
        yield value
    elif origin in _UNIONS:
        for one in kinds:
            yield from _read(value, one)
    elif origin in (tuple, Sequence):
        if is_list(value):
            yield from _read_items(value, kinds[0], tuple if origin is tuple else list)
    elif origin is Mapping:
        if isinstance(value, Mapping):
            for names in _read_items(value.keys(), kinds[0], list):
                for items in _read_items(value.values(), kinds[1], list):
                    yield dict(zip(names, items, strict=True))
    elif origin is Callable:
        if callable(value):
            yield value
    elif kind in _NUMBERS:
        if isinstance(value, _NUMBERS[kind]) and not isinstance(value, bool):
            yield kind(value)
    elif isinstance(value, _CLASSES.get(kind, kind)):
        yield value


def _read_items(
    values: Iterable[Any], kind: Any, make: Callable[[Iterable[Any]], Any]
) -> Iterator[Any]:
    """Yield what `make` makes of `values` if each of them is of a kind."""
    if set(map(type, values)) <= {kind}:
        yield make(values)
        return
    made = []
    for item in values:
        found = tuple(_read(item, kind))
        if not found:
            return
        made.append(found[0])
    yield make(made)


def _wanted(kind: Any, many: bool = False) -> str:
    """Return what to give, in words."""
    origin, kinds = get_origin(kind), get_args(kind)
    if origin in _UNIONS:
        *first, last = (_wanted(one, many) for one in kinds)
        return f"{', '.join(first)} or {last}"
    if origin in (tuple, Sequence):
        return f"a list of {_wanted(kinds[0], many=True)}"
    if origin is Mapping:
        return f"a mapping of {' to '.join(_wanted(one, many=True) for one in kinds)}"
    if origin is Callable:
        return "a function"
    return _WORDS[kind][many] if kind in _WORDS else f"a scope_cpp.{kind.__name__}"
