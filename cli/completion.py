"""What a shell offers when Tab is pressed after a flag: names and values instead of nothing."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator, MutableMapping
from contextlib import contextmanager, redirect_stdout
from glob import escape, glob
from typing import TYPE_CHECKING

import typer

from . import derive

if TYPE_CHECKING:
    from scope_cpp.eval.task import Task

Complete = Callable[[str], list[str]]


def words(*names: str) -> Complete:
    """Offer some words."""
    return lambda incomplete: _beginning(incomplete, names)


def names_of(reference: str) -> Complete:
    """Offer the names that a reference refers to (see derive.py)."""
    return lambda incomplete: _beginning(incomplete, _names(reference))


def lists_of(reference: str) -> Complete:
    """Offer the names for the last part of a list with commas."""

    def complete(incomplete: str) -> list[str]:
        before, comma, _ = incomplete.rpartition(",")
        return _beginning(incomplete, (before + comma + name for name in _names(reference)))

    return complete


def model_names(incomplete: str) -> list[str]:
    """Offer the models that are known by name, unless files begin with what is typed."""
    if incomplete and glob(escape(incomplete) + "*"):
        return []  # the shell offers files
    return names_of("engine.catalog:KNOWN")(incomplete)


def scorers(ctx: typer.Context, incomplete: str) -> list[str]:
    """Offer the scorers of the task that the command line names, or of all tasks."""
    names = (name for task in _tasks(ctx) for name in task.scorers)
    return _beginning(incomplete, dict.fromkeys(names))


def task_options(ctx: typer.Context, incomplete: str) -> list[str]:
    """Offer ``KEY=VALUE`` of the task that the command line names, with their defaults."""
    from scope_cpp.eval.tasks.options import example_options

    return _beginning(incomplete, (text for task in _tasks(ctx) for text in example_options(task)))


def options(ctx: typer.Context, incomplete: str) -> list[str]:
    """Offer ``KEY=VALUE`` of the policies that the command line names, with their defaults."""
    from scope_cpp.engine.settings import DEFAULT_POLICY, Settings
    from scope_cpp.errors import ScopeError
    from scope_cpp.policies import example_options, find_decode, find_prefill

    try:
        decode = find_decode(ctx.params.get("policy") or DEFAULT_POLICY)
        prefill = find_prefill(ctx.params.get("prefill") or Settings.prefill)
    except ScopeError:  # an unfinished name: the command will say so
        return []
    return _beginning(incomplete, example_options(decode, prefill))


@contextmanager
def in_bash(environment: MutableMapping[str, str]) -> Iterator[None]:
    """Undo what bash does to ``KEY=VALUE``: it hands ``=`` over as a word of its own.

    The words are put together for typer, which reads them from `environment`; what bash does not
    replace is cut off the answers.
    """
    kept = _join_assignment(environment) if "COMP_WORDS" in environment else ""
    if not kept:
        yield
        return
    answers = io.StringIO()
    try:
        with redirect_stdout(answers):
            yield
    finally:
        for line in answers.getvalue().splitlines():
            print(line.removeprefix(kept))


def _join_assignment(environment: MutableMapping[str, str]) -> str:
    """Make one word of the last ones around a ``=``; return it up to there, or nothing."""
    words = environment["COMP_WORDS"].split("\n")
    last = first = int(environment.get("COMP_CWORD") or 0)
    while first > 1 and "=" in words[first - 1 : first + 1]:
        first -= 1
    word = "".join(words[first : last + 1])
    if first == last or "=" not in word:
        return ""
    environment["COMP_WORDS"] = "\n".join([*words[:first], word])
    environment["COMP_CWORD"] = str(first)
    return word[: word.rindex("=") + 1]


def _names(reference: str) -> list[str]:
    from scope_cpp.errors import ScopeError

    try:
        return derive.names(reference)
    except ScopeError:  # such as a missing library: the command will say so
        return []


def _tasks(ctx: typer.Context) -> list[type[Task]]:
    from scope_cpp.eval.tasks import tasks

    known, name = tasks(), ctx.params.get("task")
    return list(known.values()) if name is None else [known[name]] if name in known else []


def _beginning(incomplete: str, found: Iterable[str]) -> list[str]:
    return [name for name in found if name.startswith(incomplete)]
