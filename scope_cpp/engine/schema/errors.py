"""How places in a schema are named, and refused."""

from __future__ import annotations

from scope_cpp.errors import UsageError

_MOST_PLACE = 120


def refusal(place: str, why: str) -> UsageError:
    """Return the error for what stands at `place`, a JSON pointer that begins with ``#``."""
    where = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in place)
    if len(where) > _MOST_PLACE:
        where = f"#…{where[-_MOST_PLACE:]}"
    return UsageError(f"bad JSON schema: {where}: {why}")


def inside(place: str, *keys: str | int) -> str:
    """Return the place of a key, or of a key's key, in what stands at `place`."""
    return "/".join((place, *(str(key).replace("~", "~0").replace("/", "~1") for key in keys)))
