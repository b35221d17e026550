"""Imports go one way: no module needs one that needs it, not even for a type or in a function."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def modules() -> dict[str, Path]:
    """Our modules by their names."""
    found = {}
    for folder, package in (("scope_cpp", "scope_cpp"), ("cli", "scope_cli")):
        for path in (ROOT / folder).rglob("*.py"):
            inside = path.relative_to(ROOT / folder)
            if inside.parts[0] != "_vendor":
                parts = [package, *inside.with_suffix("").parts]
                found[".".join(parts).removesuffix(".__init__")] = path
    return found


def imported(name: str, path: Path) -> Iterator[str]:
    """Names that a module imports from, anywhere in it; some may be no modules."""
    package = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)


def graph(known: dict[str, Path]) -> dict[str, set[str]]:
    """What each module needs. A package is needed by what is in it, which is no circle."""
    return {
        name: {
            other
            for other in imported(name, path)
            if other in known and other != name and not name.startswith(f"{other}.")
        }
        for name, path in known.items()
    }


def test_no_circles() -> None:
    needs = graph(modules())
    assert len(needs) > 200
    assert "scope_cpp.engine.cache.eviction" in needs["scope_cpp.engine.cache.bounded"]
    TopologicalSorter(needs).prepare()


def test_a_circle_is_found(tmp_path: Path) -> None:
    one, other = tmp_path / "one.py", tmp_path / "other.py"
    one.write_text("def f():\n    from . import other\n")
    other.write_text("if TYPE_CHECKING:\n    from p.one import f\n")
    with pytest.raises(CycleError):
        TopologicalSorter(graph({"p.one": one, "p.other": other})).prepare()
