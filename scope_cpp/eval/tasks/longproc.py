"""What the LongProc tasks share: where the data is, and the prompts in its YAML files."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Mapping
from pathlib import Path

from scope_cpp.errors import ScopeError, UsageError
from scope_cpp.eval.tasks.data import read_text

_BLOCK = re.compile(r"^USER_PROMPT:[ \t]*\|-?[ \t]*\n((?:[ \t]+[^\n]*\n?|[ \t]*\n)+)", re.MULTILINE)
_FIELD = re.compile(r"\{\{|\}\}|\{([a-z_]+)\}")


def where(name: str) -> str:
    """Return where to get a task's data."""
    return (
        f"Get data/{name} of https://github.com/princeton-pli/LongProc (Apache-2.0 licence):"
        f" {name}_0.5k.json, _2k or _8k, and prompts.yaml beside it"
    )


def read_template(data: Path, name: str) -> str:
    """Return the prompt of a task, from ``prompts.yaml`` beside its data file.

    Raises
    ------
    UsageError
        There is no such file.
    ScopeError
        It has no ``USER_PROMPT``.
    """
    places = [data.with_name("prompts.yaml"), data.with_name(f"{name}.prompts.yaml")]
    path = next((place for place in places if place.is_file()), None)
    if path is None:
        raise UsageError(f"{places[0]} does not exist: it has the prompts. {where(name)}")
    block = _BLOCK.search(read_text(path))
    if not block:
        raise ScopeError(f"{path} has no text USER_PROMPT: download it again")
    return textwrap.dedent(block[1]).rstrip("\n")


def fill(template: str, values: Mapping[str, str]) -> str:
    """Put values in for ``{name}``; ``{{`` and ``}}`` are brackets.

    Raises
    ------
    ScopeError
        The template asks for something else.
    """

    def value(match: re.Match[str]) -> str:
        if match[1] is None:
            return match[0][0]
        if match[1] not in values:
            raise ScopeError(f"the prompt asks for {{{match[1]}}}, which the task does not have")
        return values[match[1]]

    return _FIELD.sub(value, template)


def longest_output(n_tokens: int) -> int:
    """Return the longest output for answers of up to 0.5k, 2k or 8k tokens, as LongProc has it."""
    return next((most for size, most in ((512, 1024), (2048, 3072)) if n_tokens <= size), 9216)
