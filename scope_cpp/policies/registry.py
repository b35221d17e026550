"""Policies by name, and their options by key and text."""

from __future__ import annotations

import importlib
import importlib.metadata
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast, get_args, get_type_hints

from scope_cpp.errors import ScopeError, UsageError
from scope_cpp.near import did_you_mean, nearest

if TYPE_CHECKING:
    from scope_cpp.policies.base import Policy

P = TypeVar("P", bound="Policy")
_HOME = "scope_cpp.policies"


@dataclass(frozen=True)
class Registry(Generic[P]):
    """The policies of one kind: the built-in ones and those of an entry point group.

    Parameters
    ----------
    kind
        What a message calls them.
    group
        Entry point group, ``name = "package.module:Class"``.
    base
        Name of the class they derive from.
    builtin
        ``module:Class`` in this package by name; these names cannot be taken by others.
    flag
        How one is asked for.
    beside
        The registry of the other kind, whose names may be given here in error.
    """

    kind: str
    group: str
    base: str
    builtin: Mapping[str, str]
    flag: str
    beside: Callable[[], Registry[Any]]

    def names(self) -> list[str]:
        """Return all names, built-in ones first; no policy is imported.

        Raises
        ------
        ScopeError
            Two policies have the same name.
        """
        return [*self.builtin, *self._others()]

    def classes(self) -> dict[str, type[P]]:
        """All policies by name, built-in ones first.

        Raises
        ------
        ScopeError
            A third party's entry point cannot be used.
        """
        others = self._others()
        found = {name: self._builtin(name) for name in self.builtin}
        return found | {name: self._load(entry) for name, entry in others.items()}

    def find(self, name: str) -> type[P]:
        """Return the class called `name`; other packages are only asked for unknown names.

        Raises
        ------
        UsageError
            There is none; the message lists those there are.
        """
        if name in self.builtin:
            return self._builtin(name)
        others = self._others()
        if name not in others:
            names = self.names()
            meant = did_you_mean(name, names) or self.beside()._meant(name)
            raise UsageError(f"unknown {self.kind} {name!r}{meant}; valid are {', '.join(names)}")
        return self._load(others[name])

    def make(self, name: str, options: Mapping[str, str]) -> P:
        """Build the policy called `name` with `options` given as text.

        Raises
        ------
        UsageError
            Unknown name or key, or bad value; the message lists the valid ones.
        """
        cls = self.find(name)
        keys = valid_options(cls)
        for key in options:
            if key not in keys:
                raise UsageError(_unknown(key, [(self.kind, cls)], []))
        values = {key: _convert(name, key, text, keys[key]) for key, text in options.items()}
        try:
            return cls(**values)
        except ValueError as error:
            raise UsageError(f"bad option of {name}: {error}; {_valid(keys)}") from error

    def _meant(self, name: str) -> str:
        """Say how a policy of this kind is asked for where `name` is, or is nearly, one."""
        near = nearest(name, self.names(), n=1)
        return "".join(f" ({one} is one of {self.flag}: give {self.flag} {one})" for one in near)

    def _builtin(self, name: str) -> type[P]:
        module, _, cls = self.builtin[name].partition(":")
        return cast(type[P], getattr(importlib.import_module(f"{_HOME}.{module}"), cls))

    def _others(self) -> dict[str, importlib.metadata.EntryPoint]:
        """Entry points of other packages by name."""
        found: dict[str, importlib.metadata.EntryPoint] = {}
        for entry in importlib.metadata.entry_points(group=self.group):
            if entry.name in self.builtin or entry.name in found:
                raise ScopeError(f"{self.kind} {entry.name!r} is registered twice ({entry.value})")
            found[entry.name] = entry
        return found

    def _load(self, entry: importlib.metadata.EntryPoint) -> type[P]:
        try:
            cls = entry.load()
        except Exception as error:  # whatever a foreign module raises
            raise ScopeError(
                f"{self.kind} {entry.name!r} ({entry.value}) cannot be loaded: {error}"
            ) from error
        base = getattr(importlib.import_module(f"{_HOME}.base"), self.base)
        fits = isinstance(cls, type) and issubclass(cls, base)
        if not fits or getattr(cls, "name", None) != entry.name:
            raise ScopeError(
                f"{self.kind} {entry.name!r}: {entry.value} must be a {self.base} of that name"
            )
        return cast(type[P], cls)


def parse_options(pairs: Iterable[str]) -> dict[str, str]:
    """Turn ``["beta1=48", ...]`` into a dict; of equal keys the last wins.

    Raises
    ------
    UsageError
        A text without key or ``=``.
    """
    options = {}
    for pair in pairs:
        key, equals, value = (part.strip() for part in pair.partition("="))
        if not (key and equals and value):
            raise UsageError(f"bad option {pair!r}: write it as key=value, such as beta1=48")
        options[key] = value
    return options


def split_options(
    decode: type[Policy],
    prefill: type[Policy],
    options: Mapping[str, str],
    others: Callable[[], Mapping[str, type[Policy]]] = dict,
) -> tuple[dict[str, str], dict[str, str]]:
    """Give every option to the policies that have it.

    A key that both have goes to both; ``decode.key`` and ``prefill.key`` name one of them.

    Raises
    ------
    UsageError
        A key that nobody has; the message lists the valid ones, and which of the `others`, decode
        policies by name, have this key.
    """
    owners: list[tuple[str, type[Policy], dict[str, str]]] = [
        ("decode", decode, {}),
        ("prefill", prefill, {}),
    ]
    for key, text in options.items():
        scope, _, plain = key.rpartition(".")
        takers = [
            got for kind, cls, got in owners if scope in ("", kind) and plain in valid_options(cls)
        ]
        if not takers:
            asked = [(f"{kind} policy", cls) for kind, cls, _ in owners if scope in ("", kind)]
            having = [name for name, cls in others().items() if plain in valid_options(cls)]
            raise UsageError(_unknown(key, asked or [("decode policy", decode)], having))
        for got in takers:
            got[plain] = text
    return owners[0][2], owners[1][2]


def valid_options(cls: type[Policy]) -> dict[str, Any]:
    """Keys of a policy's options, with their type (such as ``int | None``)."""
    hints = get_type_hints(cls)
    return {item.name: hints[item.name] for item in fields(cls)}


def example_options(*policies: type[Policy]) -> list[str]:
    """Return ``key=value`` for each option of the policies: its default, or each word it takes."""
    found: dict[str, None] = {}
    for item in (item for cls in policies for item in fields(cls)):
        default = "auto" if item.default is None else str(item.default)
        words = item.metadata.get("choices") or (default,)
        found.update(dict.fromkeys(f"{item.name}={word}" for word in words))
    return list(found)


def _unknown(key: str, owners: Sequence[tuple[str, type[Policy]]], having: Sequence[str]) -> str:
    """Say that policies have no such option: first what may be meant, then all that there are.

    Parameters
    ----------
    key
    owners
        The policies that it could belong to, each with its kind.
    having
        Names of decode policies that have it.
    """
    plain = key.rpartition(".")[2]
    known = {cls.name: list(valid_options(cls)) for _, cls in owners}
    *first, last = (
        f"{kind} {cls.name}" for kind, cls in owners if known[cls.name] or cls is owners[0][1]
    )
    line = f"{last} has no option {key!r}"
    if first:
        line = f"neither {first[0]} nor {last} has an option {key!r}"
    if having:
        line += f", which is one of --policy {', '.join(having)}"
    else:
        line += did_you_mean(plain, [name for names in known.values() for name in names])
    for name, names in known.items():
        if names:
            line += f"; the options of {name} are {', '.join(names)}"
    return line if any(known.values()) else f"{line}; it has no options"


def _valid(keys: Iterable[str]) -> str:
    return "valid are " + (", ".join(keys) or "none")


_CONVERTERS: dict[type, Callable[[str], Any]] = {int: int, float: float, str: str}


def _convert(name: str, key: str, text: str, kind: Any) -> Any:
    """Text of an option as a value of its type; ``auto`` is None where None is allowed."""
    kinds = get_args(kind) or (kind,)
    if text == "auto" and type(None) in kinds:
        return None
    wanted = next(k for k in kinds if k in _CONVERTERS)
    try:
        return _CONVERTERS[wanted](text)
    except ValueError as error:
        what = {int: "a whole number", float: "a number"}[wanted]
        raise UsageError(f"bad option of {name}: {key}={text} must be {what}") from error
