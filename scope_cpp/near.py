"""What somebody may have meant who wrote a name that there is not."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


def nearest(name: str, known: Iterable[str], n: int = 2, cutoff: float = 0.7) -> list[str]:
    """Return the known names that are most like `name`, `n` at most; case doesn't count.

    >>> nearest("H2O", ["full", "h2o"])
    ['h2o']
    """
    spelled: dict[str, list[str]] = {}
    for one in dict.fromkeys(known):
        spelled.setdefault(one.casefold(), []).append(one)
    wanted = name.casefold()
    near = [wanted] if wanted in spelled else get_close_matches(wanted, spelled, n, cutoff)
    return [one for folded in near for one in spelled[folded]][:n]


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return the nearest of the known names, as what follows the unknown one in a message.

    >>> did_you_mean("temprature", ["temp", "temperature", "top_k"])
    ' (did you mean temperature?)'
    """
    near = nearest(name, known)
    return f" (did you mean {' or '.join(near)}?)" if near else ""


def valid_are(name: str, known: Iterable[str]) -> str:
    """Return the nearest of the known names, and all of them, as what follows an unknown one.

    >>> valid_are("H2O", ["full", "h2o"])
    ' (did you mean h2o?); valid are full, h2o'
    """
    known = list(known)
    return f"{did_you_mean(name, known)}; valid are {', '.join(known)}"
