"""What all commands share: errors of one line, exit codes, and strict short flags."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence
from typing import Any

from typer.core import TyperCommand, TyperGroup

from scope_cpp.errors import ScopeError, UsageError

from . import terminal

_SHORT = re.compile(r"-[A-Za-z].+")


class ScopeCommand(TyperCommand):
    """A command that refuses an undeclared ``-nkvo`` instead of reading it as ``-n kvo``."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Check the short flags, then parse as usual."""
        if not ctx.resilient_parsing:
            self._check_short_flags(ctx, args)
        return super().parse_args(ctx, args)

    def _check_short_flags(self, ctx: Any, args: Sequence[str]) -> None:
        takes_value = {
            name: not getattr(param, "is_flag", False)
            for param in self.get_params(ctx)
            for name in param.opts
        }
        rest = iter(args)
        for arg in rest:
            if arg == "--":
                return
            if takes_value.get(arg, False):
                next(rest, None)
            elif arg not in takes_value and _SHORT.fullmatch(arg):
                raise UsageError(f"no such flag: {arg}; see '{ctx.command_path} --help'")


class ScopeGroup(TyperGroup):
    """The whole program: whatever goes wrong becomes one line and an exit code.

    A closed pipe on stdout is no error to speak of: typer itself then exits quietly with 1.
    """

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """Run and exit with 0, 1, 2 or 130; never shows a traceback without ``-v``."""
        given = args[0] if args else kwargs.get("args")
        kwargs["standalone_mode"] = False
        try:
            code = super().main(*args, **kwargs)
        except Exception as err:
            code = _report(err, _is_verbose(sys.argv[1:] if given is None else given))
        sys.exit(code or 0)


def _report(err: Exception, verbose: bool) -> int:
    """Print the line of an error and return its exit code.

    Typer's own errors are told by their method: their classes are private to it.
    """
    if hasattr(err, "format_message"):
        message = err.format_message()
        if message:  # empty where no command was given: the help is the answer
            terminal.error(message.rstrip(".") + _see_help(err))
        return int(getattr(err, "exit_code", 1))
    if isinstance(err, OSError):
        terminal.drop_stdout()
        name = f"{err.filename}: " if err.filename else ""
        terminal.error(f"{name}{err.strerror or err}")
        return 1
    if isinstance(err, ScopeError):
        terminal.error(str(err))
        return err.exit_code
    if verbose:
        import traceback

        traceback.print_exception(err)
    terminal.error(f"{type(err).__name__}: {err}; run with -v for the traceback")
    return 1


def _see_help(err: Exception) -> str:
    path = getattr(getattr(err, "ctx", None), "command_path", None)
    return f"; see '{path} --help'" if path else ""


def _is_verbose(args: Sequence[str]) -> bool:
    return bool({"-v", "--verbose"} & set(args)) or bool(os.environ.get("SCOPE_VERBOSE"))
