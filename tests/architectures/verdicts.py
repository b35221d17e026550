"""Program: prints what scope-cpp does with a model of every architecture, as Markdown.

Usage: python -m tests.architectures.verdicts [--write]

With --write it goes to docs/architectures.md.
"""

from __future__ import annotations

import re
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from scope_cpp.engine import known_files
from scope_cpp.engine.capability import probe
from scope_cpp.errors import ScopeError
from tests.architectures.maker import write_architecture
from tests.architectures.table import ARCHITECTURES, FAMILIES, NOT_MADE

DOCS = Path(__file__).resolve().parents[2] / "docs" / "architectures.md"

HEADER = """\
# Architectures

Written by `python -m tests.architectures.verdicts --write` from what scope-cpp says of a tiny
random model of every architecture that its llama.cpp knows; do not edit. A test keeps it true.

*Bounded*: the cells of the cache are freed by a policy, within a budget. *Full cache only*: the
model runs, and its cache grows with the text, for the reason that is given. *Refused*: no command
runs it. A name with a suffix, such as `olmo2-windowed`, is a variant of the architecture before the
suffix.
"""


def render(model: Callable[[str], Path]) -> str:
    """Text of docs/architectures.md; `model` returns the path of a tiny model."""
    parts = [HEADER]
    for title, family in FAMILIES.items():
        rows = ((name, verdict(name, model(name))) for name in sorted(family))
        parts.append(f"## {title[0].upper()}{title[1:]}\n\n{_table(rows)}")
    parts.append(f"## Not tried\n\n{_table(iter(NOT_MADE.items()))}")
    return "\n".join(parts)


def bounded() -> list[str]:
    """Names of the models that are bounded, by the document's word."""
    return re.findall(r"^\| `(\S+)` \| bounded \|$", DOCS.read_text(), re.MULTILINE)


def verdict(name: str, path: Path) -> str:
    """What becomes of the model, in a few words."""
    if ARCHITECTURES[name].generates:
        known_files.remember([path], weights=True)  # it decodes here: no need to try it elsewhere
    try:
        found = probe(path)
    except ScopeError as err:
        cause = str(err).partition("; ")[0]  # what follows is the remedy
        return f"refused: {_without_name(cause, path)}"
    if found.supported:
        return "bounded"
    kind = "full cache only" if found.generates else "refused"
    return f"{kind}: {_without_name(found.reason, path)}"


def _without_name(text: str, path: Path) -> str:
    for name in (str(path), path.name):
        text = text.removeprefix(f"{name} ")
    return text


def _table(rows: Iterator[tuple[str, str]]) -> str:
    lines = [f"| `{name}` | {words} |\n" for name, words in rows]
    return "".join(["| architecture | with scope-cpp |\n", "|---|---|\n", *lines])


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        text = render(lambda name: write_architecture(f"{folder}/{name}.gguf", name))
    if sys.argv[1:] == ["--write"]:
        DOCS.write_text(text)
    else:
        print(text, end="")


if __name__ == "__main__":
    main()
