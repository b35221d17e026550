"""What all commands share: errors of one line, exit codes, and strict short flags."""

from __future__ import annotations

import functools
import inspect
import os
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any, ClassVar, TypeVar

import typer
from typer.core import TyperCommand, TyperGroup

from scope_cpp.errors import ScopeError, UsageError
from scope_cpp.near import nearest
from scope_cpp.wording import speak_of_flags

from . import completion, help_page, terminal, variables
from .groups import as_command

Function = TypeVar("Function", bound=Callable[..., None])

_EXTRA = re.compile(r"unexpected extra argument(?:s|\(s\))? \((.*)\)", re.DOTALL)
_SHORT = re.compile(r"-[A-Za-z].+")
# what typer says of a value, and what we say
_REMEDIES = (
    (r"valid integer", "give a whole number"),
    (r"valid number", "give a number"),
    (r"greater than or equal to (\S+)", r"give at least \1"),
    (r"less than or equal to (\S+)", r"give at most \1"),
    (r"is not one of (.*)", r"give one of \1"),
)


class ScopeCommand(TyperCommand):
    """A command with our help, which refuses an undeclared ``-nkvo`` instead of reading ``-n kvo``.

    Its parameters are made when they are asked for: a process runs one command of many.

    Attributes
    ----------
    first
        Spellings of the options that ``--help`` shows; none: all of them.
    function
        What it runs; its parameters are groups of flags.
    """

    first: ClassVar[tuple[str, ...]] = ()
    function: ClassVar[Callable[..., None]]

    @functools.cached_property
    def _made(self) -> Any:
        """The command as typer makes it."""
        app = typer.Typer(add_completion=False)
        app.command()(as_command(self.function))
        return typer.main.get_command(app)

    @property
    def params(self) -> Any:
        """Options and arguments."""
        return self._made.params

    @params.setter
    def params(self, _: Any) -> None:
        """Pass over those of the placeholder in `add_command`."""

    def invoke(self, ctx: Any) -> Any:
        """Run the function."""
        return ctx.invoke(self._made.callback, **ctx.params)

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the help."""
        formatter.write(help_page.command_help(self, ctx, self.first))

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Check the short flags, then parse as usual."""
        if not ctx.resilient_parsing:
            self._check_short_flags(ctx, args)
        left = super().parse_args(ctx, args)
        if not ctx.resilient_parsing:
            variables.warn_of_unknown(ctx)
        return left

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
                raise UsageError(_unknown_flag(arg, takes_value, ctx))


def shows_first(*names: str) -> Callable[[Function], Function]:
    """Name the options that ``--help`` of a command shows; the others are in ``--help-all``."""

    def mark(function: Function) -> Function:
        function.first = names  # type: ignore[attr-defined]
        return function

    return mark


def add_command(
    app: typer.Typer, function: Callable[..., None], kind: type[ScopeCommand] = ScopeCommand
) -> None:
    """Make a command of a function whose parameters are groups of flags."""
    fields = {"first": getattr(function, "first", ()), "function": staticmethod(function)}
    own = type(kind.__name__, (kind,), fields)
    app.command(function.__name__, cls=own, help=inspect.getdoc(function))(lambda: None)


class Commands(TyperGroup):
    """Commands with our help, which is also the answer where none is named."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the help."""
        formatter.write(help_page.group_help(self, ctx))

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Show the help if there is nothing to parse, with the exit code of a wrong request."""
        if not args and not ctx.resilient_parsing:
            typer.echo(ctx.get_help())
            raise typer.Exit(UsageError.exit_code)
        return super().parse_args(ctx, args)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Find a command; an unknown one is refused with the nearest names."""
        name = args[0]
        if not (ctx.resilient_parsing or name in self.commands or name.startswith("-")):
            raise UsageError(
                f"{ctx.command_path} has no command {name!r}: {self._meant(ctx, name)}"
            )
        return super().resolve_command(ctx, args)

    def _meant(self, ctx: Any, name: str) -> str:
        if name.lower().endswith(".gguf"):
            return f"name a command before the model, such as '{ctx.command_path} chat {name}'"
        near = nearest(name, self.commands, n=3, cutoff=0.6)
        return _did_you_mean(near) or f"see '{ctx.command_path} --help'"


class ScopeGroup(Commands):
    """The whole program: whatever goes wrong becomes one line and an exit code.

    A closed pipe on stdout is no error to speak of: typer itself then exits quietly with 1.
    """

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """Run and exit with 0, 1, 2 or 130; never shows a traceback without ``-v``."""
        given = args[0] if args else kwargs.get("args")
        kwargs["standalone_mode"] = False
        speak_of_flags()
        try:
            with completion.in_bash(os.environ):
                code = super().main(*args, **kwargs)
        except Exception as err:
            code = _report(err, _is_verbose(sys.argv[1:] if given is None else given))
        sys.exit(code or 0)


def _report(err: Exception, verbose: bool) -> int:
    """Print the line of an error and return its exit code.

    Typer's own errors are told by their method: their classes are private to it.
    """
    if hasattr(err, "format_message"):
        terminal.error(_message(err))
        return int(getattr(err, "exit_code", 1))
    if isinstance(err, OSError):
        terminal.drop_stdout()
        name = f"{err.filename}: " if err.filename else ""
        terminal.error(f"{name}{err.strerror or err}")
        return 1
    if isinstance(err, ScopeError):
        terminal.error(str(err))
        return err.exit_code
    terminal.fault(err, verbose)
    return 1


def _message(err: Any) -> str:
    """Return the line of an error of typer's: what is wrong, and where the help is.

    The classes are told by what they have, as those of typer are private.
    """
    ctx = getattr(err, "ctx", None)
    if ctx is not None and hasattr(err, "possibilities"):
        known = [name for item in ctx.command.params for name in item.opts]
        return _unknown_flag(err.option_name, known, ctx)
    if ctx is not None and getattr(err, "param", None) is not None:
        source = _source(err.param, ctx)
        if not err.message:
            told = str(getattr(err.param, "help", None) or "").rstrip(".")
            what = f": {told[:1].lower()}{told[1:]}" if told else ""
            return f"{source.rstrip('.')} is missing{what}; see '{ctx.command_path} --help'"
        return f"{source}: {_remedy(err.message)}"
    message = str(err.format_message()).rstrip(".")
    extra = _EXTRA.search(message)
    if ctx is not None and extra is not None:
        return _unexpected(extra[1], ctx)
    return message if ctx is None else f"{message}; see '{ctx.command_path} --help'"


def _unexpected(words: str, ctx: Any) -> str:
    """Say where words belong that are no argument."""
    takes_prompt = any(param.name == "prompt" for param in ctx.command.params)
    way = f'give a prompt with -p "{words}"' if takes_prompt else f"see '{ctx.command_path} --help'"
    return f"{ctx.command_path} takes no argument {words!r} here: {way}"


def _source(param: Any, ctx: Any) -> str:
    """Return where a value came from: an option, or its environment variable."""
    found = ctx.get_parameter_source(param.name)
    if found is not None and found.name == "ENVIRONMENT":
        return str(param.envvar)
    return "/".join(help_page.short_names(param))


def _remedy(message: str) -> str:
    for pattern, remedy in _REMEDIES:
        found = re.search(pattern, message)
        if found is not None:
            return found.expand(remedy)
    return message.rstrip(".")


def _unknown_flag(name: str, known: Iterable[str], ctx: Any) -> str:
    near = [_apart(name, flag) for flag in known if _apart(name, flag)]
    near = near or nearest(name, known, n=3)
    meant = _did_you_mean(near) or f"see '{ctx.command_path} --help-all'"
    return f"{ctx.command_path} has no option {name}: {meant}"


def _apart(name: str, flag: str) -> str:
    """Return ``-n 5`` for ``-n5``, nothing if that is not what it is."""
    value = name.removeprefix(flag)
    return f"{flag} {value}" if value != name and value.isdigit() else ""


def _did_you_mean(near: Sequence[str]) -> str:
    return f"did you mean {' or '.join(near)}?" if near else ""


def _is_verbose(args: Sequence[str]) -> bool:
    return bool({"-v", "--verbose"} & set(args)) or bool(os.environ.get("SCOPE_VERBOSE"))
