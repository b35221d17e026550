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
    sections = [HEADER, *(_section(name, program.commands[name]) for name in program.commands)]
    return "\n".join([*sections, _policies()])


def _section(name: str, command: Any) -> str:
    summary, _, example = cleandoc(command.help).partition("\n\n")
    lines = [f"## `scope {name}`", "", " ".join(summary.split()), ""]
    if example:
        lines += ["```sh", example, "```", ""]
    for panel, params in _panels(command).items():
        lines += [f"**{panel}**", "", "| | | default | variable |", "|---|---|---|---|"]
        lines += [*(_row(param) for param in params), ""]
    return "\n".join(lines)


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
        for name, policy in classes.items():
            lines += [
                f"| `{kind} {name}` | `{item.name}` | "
                f"{'auto' if item.default is None else item.default} | {item.metadata['help']} |"
                for item in fields(policy)
            ]
    return "\n".join(lines) + "\n"


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
