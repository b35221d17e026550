"""Options of tasks: ``key=value`` texts to checked values."""

from __future__ import annotations

from typing import Any

from scope_cpp.errors import UsageError
from scope_cpp.eval.task import Option, Source, Task
from scope_cpp.near import did_you_mean


def read_options(task: Task, source: Source) -> dict[str, Any]:
    """Return the value of every option of the task.

    Raises
    ------
    UsageError
        An option that is none of the task's, or a bad value; the message says what is valid.
    """
    values: dict[str, Any] = {key: option.default for key, option in task.options.items()}
    for pair in source.options:
        key, equals, text = (part.strip() for part in pair.partition("="))
        if not equals or key not in task.options:
            valid = ", ".join(example_options(type(task)))
            near = did_you_mean(key, task.options)
            raise UsageError(
                f"unknown option {pair!r} of the task {task.name}{near}: "
                + (f"valid are (with defaults) {valid}" if valid else "it has none")
            )
        try:
            values[key] = _value(task.options[key], text)
        except ValueError as error:
            raise UsageError(f"bad option of the task {task.name}: {pair}: {error}") from None
    return values


def example_options(task: type[Task]) -> list[str]:
    """Return ``key=value`` for each option of a task, with its default."""
    return [f"{key}={_show(option.default)}" for key, option in task.options.items()]


def _show(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _value(option: Option, text: str) -> Any:
    """Convert a text to the type of the option's default."""
    default = option.default
    if not isinstance(default, tuple):
        return _one(option, default, text)
    example = default[0] if default else 0
    return tuple(_one(option, example, part.strip()) for part in text.split(","))


def _one(option: Option, example: int | str, text: str) -> int | str:
    if isinstance(example, str):
        if text not in option.choices:
            near = did_you_mean(text, option.choices).strip()
            raise ValueError(f"{near}; valid are {', '.join(option.choices)}".removeprefix("; "))
        return text
    try:
        value = int(text)
    except ValueError:
        raise ValueError(f"{text!r} is no whole number") from None
    if not option.low <= value <= option.high:
        raise ValueError(f"must be {option.low} to {option.high}")
    return value
