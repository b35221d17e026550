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

Text goes to stdout, everything else to stderr; control characters that a model writes are shown as
signs on a terminal, and are exact in a file or a pipe. A line with speed, cells and memory follows
a text where stderr is a terminal, and with -v everywhere; programs take these numbers from --json.
`scope COMMAND --help` shows the
options that people use first, `scope COMMAND --help-all` those of this page. Exit codes: 0 done,
1 failed, 2 wrong request, 130 Ctrl-C.

Each option can also be set by an environment variable: `SCOPE_` and its first long name, such as
`SCOPE_BUDGET=2k` for `--budget 2k`. A value is taken from the command line, else from the variable,
else from the `--config` file, else (sampling only) from the model's file; else the default holds.

Keys of a `--config` file are flags without their dashes; a table stands for a repeatable flag:

```toml
model = "model.gguf"
budget = "2k"
temp = 0
[option]
recent = 512
```
"""

OPTIONS = """\
## Options of the policies

For `-o KEY=VALUE`. A key that both policies have goes to both; `decode.window` and
`prefill.window` name one. `auto` stands for a derived value.
"""

_SKIPPED = {"help_all"}


def render() -> str:
    """Return the text of docs/cli.md."""
    app = import_module("scope_cli.program").app
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
    arguments = [param for param in command.params if param.param_type_name == "argument"]
    panels = {"Arguments": arguments, **_help().panels(command.params)}
    for panel, params in panels.items():
        rows = [_row(param) for param in params if param.name not in _SKIPPED]
        if rows:
            lines += [f"**{panel}**", "", "| | | default |", "|---|---|---|", *rows, ""]
    return "\n".join(lines)


def _line(text: str) -> str:
    return " ".join(text.split())


def _row(param: Any) -> str:
    text = import_module("scope_cli.derive").fill(param.help or "")
    cells = (_spelling(param), text, _help().default_of(param))
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _spelling(param: Any) -> str:
    """Short spellings first, as llama.cpp's help has them, then what it takes."""
    if param.param_type_name == "argument":
        return f"`{param.metavar}`"
    names = ", ".join(f"`{name}`" for name in _help().ordered(param.opts))
    return " ".join([names, *_help().metavar(param)])


def _help() -> Any:
    """The module that ``--help`` is made by."""
    return import_module("scope_cli.help_page")


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
