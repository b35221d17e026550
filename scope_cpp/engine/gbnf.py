"""Finds GBNF grammars that llama.cpp would not survive: left recursion, and too many beginnings.

A rule that can come to itself before any character never ends. llama.cpp refuses such a grammar,
but not where the recursion hides behind references that may be empty two rules down; it then
loops until memory is exhausted, or aborts the process in the middle of sampling. It also follows
every way in which a rule can begin, of which there may be 2^20 after twenty short rules.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

_TOKEN = re.compile(
    r"""(?P<comment>\#[^\n]*)
    | (?P<text>"(?:\\.|[^"\\])*" | \[(?:\\.|[^\]\\])*\] | !?<[^>]*> | \.)
    | (?P<rule>[A-Za-z0-9-]+)\s*::=
    | (?P<name>[A-Za-z0-9-]+)
    | (?P<repeat>[*+?] | \{[^}]*\})
    | (?P<other>[|()])""",
    re.VERBOSE | re.DOTALL,
)
MOST_RULES = 1000
MOST_WAYS = 100_000  # to begin a rule

Ways = tuple[int, int]

_EMPTY_TEXTS = ('""', "[]", "[^]")
_NONE_OR_MORE = re.compile(r"[*?] | \{\s*0+\s*[,}]", re.VERBOSE)


@dataclass
class _Item:
    """A text, a reference to a rule, or a group; `optional` if it may be left out."""

    rule: str | None = None
    group: _Group | None = None
    optional: bool = False

    def may_be_empty(self, empty_rules: set[str]) -> bool:
        """Whether the item can stand for no text, where `empty_rules` are those that can."""
        if self.optional:
            return True
        if self.group is not None:
            return self.group.may_be_empty(empty_rules)
        return self.rule in empty_rules

    def ways(self, known: dict[str, Ways]) -> Ways:
        """In how many ways the item begins with a character, and in how many it is empty."""
        if self.group is not None:
            begins, empty = self.group.ways(known)
        elif self.rule is not None:
            begins, empty = known.get(self.rule, (1, 0))
        else:
            begins, empty = 1, 0
        return begins, min(empty + self.optional, MOST_WAYS)

    def leftmost(self, empty_rules: set[str]) -> Iterator[str]:
        """Rules that this item may come to before any character."""
        if self.group is not None:
            yield from self.group.leftmost(empty_rules)
        elif self.rule is not None:
            yield self.rule


@dataclass
class _Group:
    """Alternatives, each a sequence of items."""

    sequences: list[list[_Item]] = field(default_factory=lambda: [[]])

    def may_be_empty(self, empty_rules: set[str]) -> bool:
        """Whether an alternative can stand for no text."""
        return any(all(i.may_be_empty(empty_rules) for i in items) for items in self.sequences)

    def ways(self, known: dict[str, Ways]) -> Ways:
        """In how many ways the group begins with a character, and in how many it is empty."""
        begins = empty = 0
        for items in self.sequences:
            before = 1
            for item in items:
                more, none = item.ways(known)
                begins, before = begins + before * more, before * none
                if not before:
                    break
            empty += before
        return min(begins, MOST_WAYS), min(empty, MOST_WAYS)

    def leftmost(self, empty_rules: set[str]) -> Iterator[str]:
        """Rules that an alternative may come to before any character."""
        for items in self.sequences:
            for item in items:
                yield from item.leftmost(empty_rules)
                if not item.may_be_empty(empty_rules):
                    break


def fault(grammar: str) -> str | None:
    """Return why llama.cpp would not survive a grammar, None if it does.

    What is no valid syntax is passed over: that is for llama.cpp to report.
    """
    rules = _parse(grammar)
    if len(rules) > MOST_RULES:
        return f"it has {len(rules)} rules: at most {MOST_RULES}"
    empty = _grown(lambda known: {name for name in rules if rules[name].may_be_empty(known)})
    calls = {name: set(rule.leftmost(empty)) & rules.keys() for name, rule in rules.items()}
    ways: dict[str, Ways] = {}
    # in an order in which every rule comes after those that it may begin with
    while ready := [name for name in calls if name not in ways and calls[name] <= ways.keys()]:
        for name in ready:
            ways[name] = rules[name].ways(ways)
            if max(ways[name]) >= MOST_WAYS:
                return f"{name} can begin in {MOST_WAYS} ways or more"
    caught = rules.keys() - ways.keys()
    if not caught:
        return None
    # each of these calls another of them: whoever is met twice is on a cycle
    name, seen = min(caught), set[str]()
    while name not in seen:
        seen.add(name)
        name = min(calls[name] & caught)
    return f"left recursion, {name} leads to itself at its start"


def _grown(step: Callable[[set[str]], set[str]]) -> set[str]:
    """Smallest set that `step`, which only adds to it, leaves as it is."""
    known: set[str] = set()
    while (larger := step(known)) != known:
        known = larger
    return known


def _parse(grammar: str) -> dict[str, _Group]:
    rules: dict[str, _Group] = {}
    open_groups: list[_Group] = []
    for match in _TOKEN.finditer(grammar):
        kind, token = str(match.lastgroup), match[str(match.lastgroup)]
        if kind == "rule":
            rules[token] = _Group()
            open_groups = [rules[token]]
        elif open_groups:
            _add(open_groups, kind, token)
    return rules


def _add(open_groups: list[_Group], kind: str, token: str) -> None:
    sequences = open_groups[-1].sequences
    if kind == "text":
        sequences[-1].append(_Item(optional=token in _EMPTY_TEXTS))
    elif kind == "name":
        sequences[-1].append(_Item(rule=token))
    elif kind == "repeat" and sequences[-1]:
        sequences[-1][-1].optional |= _NONE_OR_MORE.match(token) is not None
    elif token == "|":
        sequences.append([])
    elif token == "(":
        group = _Group()
        sequences[-1].append(_Item(group=group))
        open_groups.append(group)
    elif token == ")" and len(open_groups) > 1:
        open_groups.pop()
