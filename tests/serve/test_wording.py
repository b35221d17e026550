"""What the engine refuses is told to clients in the words of the interface."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import scope_cpp
from scope_cpp.serve.wording import FIELDS, OF_THE_SERVER, for_clients

ROOT = Path(scope_cpp.__file__).parent
FLAG = re.compile(r"(?<![\w-])--?[a-z][a-z-]*")
# what no request meets: conversations, sessions, files, options of a Python process, and formats
OTHERS = {
    "session.py", "session_values.py", "session_model.py", "hub.py", "catalog.py", "doctor.py",
    "selftest.py", "inspect.py", "conversation.py", "load_failure.py", "prompts.py",
}  # fmt: skip


def texts(path: Path) -> Iterator[str]:
    """Texts of a module that are no docstrings."""
    tree = ast.parse(path.read_text())
    docs = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef))
        and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docs:
            yield node.value


@pytest.mark.parametrize("folder", ["engine", "policies"])
def test_every_flag_in_a_message_of_the_engine_is_known(folder: str) -> None:
    unknown = {
        (path.name, flag)
        for path in (ROOT / folder).rglob("*.py")
        if path.name not in OTHERS
        for text in texts(path)
        if " " in text
        for flag in FLAG.findall(text)
        if flag not in FIELDS and flag not in OF_THE_SERVER
    }
    assert unknown == set()


def test_flags_become_fields() -> None:
    assert for_clients("give a smaller --budget or -n, or more --cells") == (
        "give a smaller budget or max_tokens, or more --cells "
        "(only the server is started with --cells)"
    )
    assert for_clients("a non-causal model, 2-bit -1") == "a non-causal model, 2-bit -1"
