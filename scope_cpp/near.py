"""What somebody may have meant who wrote a name that there is not."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return the nearest of the known names, as what follows the unknown one in a message.

    >>> did_you_mean("temprature", ["temp", "temperature", "top_k"])
    ' (did you mean temperature?)'
    """
    near = get_close_matches(name, list(dict.fromkeys(known)), n=2, cutoff=0.7)
    return f" (did you mean {' or '.join(near)}?)" if near else ""
