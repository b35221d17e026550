"""Write docs/cli.md from the commands' own declarations, the ones that ``--help`` prints.

    python scripts/make_cli_docs.py [--check]

With --check nothing is written; the exit code is 1 if the file is not up to date. The installed
``scope`` is what is documented.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import fields
from importlib import import_module
from inspect import cleandoc
from pathlib import Path
from typing import Any

DOCS = Path(__file__).resolve().parents[1] / "docs" / "cli.md"

HEADER = """\
# The `scope` command

Written by `scripts/make_cli_docs.py` from what `scope --help` shows; do not edit.

Text goes to stdout, everything else to stderr. A value is taken from the flag, else from the
environment variable, else from the `--config` file, else from the model's own sampling defaults,
else from llama.cpp's. Exit codes: 0 done, 1 failed, 2 wrong request, 130 Ctrl-C.

Keys of a `--config` file are flags without their dashes; a table stands for a repeatable flag:

```toml
model = "model.gguf"
budget = "2k"
temp = 0
[option]
beta1 = 512
beta2 = 512
```
"""

OPTIONS = """\
## Options of the policies

For `-o KEY=VALUE`. A key that both policies have goes to both; `decode.window` and
`prefill.window` name one. `auto` stands for a derived value.
"""

_SKIPPED = {"help", "install_completion", "show_completion"}


def render() -> str:
    """Return the text of docs/cli.md."""
    app = import_module("scope_cli.main").app
    program = import_module("typer.main").get_command(app)
    return "\n".join([HEADER, *_sections(program.commands), _policies()])


def _sections(commands: dict[str, Any], group: str = "") -> Iterator[str]:
    for name, command in commands.items():
        if hasattr(command, "commands"):
            yield from _sections(command.commands, f"{group}{name} ")
        else:
            yield _section(group + name, command)


def _section(name: str, command: Any) -> str:
    lines = [f"## `scope {name}`", ""]
    for part in cleandoc(command.help).split("\n\n"):
        lines += ["```sh", part, "```", ""] if part.startswith("scope ") else [_line(part), ""]
    for panel, params in _panels(command).items():
        lines += [f"**{panel}**", "", "| | | default | variable |", "|---|---|---|---|"]
        lines += [*(_row(param) for param in params), ""]
    return "\n".join(lines)


def _line(text: str) -> str:
    return " ".join(text.split())


def _panels(command: Any) -> dict[str, list[Any]]:
    panels: dict[str, list[Any]] = {}
    for param in command.params:
        if param.name not in _SKIPPED:
            panel = getattr(param, "rich_help_panel", None) or "Arguments"
            panels.setdefault(panel, []).append(param)
    return panels


def _row(param: Any) -> str:
    cells = (_spelling(param), param.help or "", _default(param), _code(param.envvar))
    return "| " + " | ".join(str(cell).replace("|", "\\|") for cell in cells) + " |"


def _spelling(param: Any) -> str:
    if param.param_type_name == "argument":
        return _code(param.metavar)
    names = ", ".join(_code(name) for name in _ordered(param.opts))
    return names if param.is_flag else f"{names} {param.metavar}"


def _policies() -> str:
    policies = import_module("scope_cpp.policies")
    lines = [OPTIONS, "| policy | key | default | |", "|---|---|---|---|"]
    for kind, classes in (
        ("--policy", policies.decode_policies()),
        ("--prefill", policies.prefill_policies()),
    ):
        rows: dict[tuple[str, str, str], list[str]] = {}
        for name, policy in classes.items():
            for item in fields(policy):
                default = "auto" if item.default is None else str(item.default)
                text = ": ".join([item.metadata["help"], *_listed(item.metadata["choices"])])
                rows.setdefault((item.name, default, text), []).append(name)
        lines += [
            f"| `{kind}` {', '.join(names)} | `{key}` | {default} | {text} |"
            for (key, default, text), names in rows.items()
        ]
    return "\n".join(lines) + "\n"


def _listed(words: tuple[str, ...]) -> list[str]:
    return [", ".join(words)] if words else []


def _ordered(names: list[str]) -> Iterator[str]:
    """Short spellings first, as llama.cpp's help has them."""
    yield from sorted(names, key=lambda name: name.startswith("--"))


def _default(param: Any) -> str:
    shown = getattr(param, "show_default", None)
    if isinstance(shown, str):
        return shown
    return "" if param.default in (None, False, []) else str(param.default)


def _code(text: str | None) -> str:
    return f"`{text}`" if text else ""


def main() -> int:
    """Write the file, or compare it."""
    text = render()
    if "--check" in sys.argv[1:]:
        same = DOCS.exists() and DOCS.read_text() == text
        print(f"{DOCS.name} is {'up to date' if same else 'stale: run ' + sys.argv[0]}")
        return 0 if same else 1
    DOCS.parent.mkdir(exist_ok=True)
    DOCS.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
