"""What a line that the user typed is: a command or a message."""

from __future__ import annotations


def command(line: str) -> tuple[str, str] | None:
    """Return the name and the rest of a command, None for a message.

    Two slashes begin a message that begins with one; see `message`.
    """
    if not line.startswith("/") or line.startswith("//") or "\n" in line.strip():
        return None
    name, _, rest = line[1:].strip().partition(" ")
    return name, rest.strip()


def message(line: str) -> str:
    """Return the message that a line stands for."""
    return line[1:] if line.startswith("//") else line


def line_of_message(message: str) -> str:
    """Return the line that stands for a message."""
    return "/" + message if message.startswith("/") else message
