"""Characters that stand for shares in a terminal: bars, sparklines and shades."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Marks:
    """One set of characters.

    Attributes
    ----------
    levels
        From nothing to all, for sparklines.
    shades
        None, three parts of what is between, all: for maps.
    bar, reach, rest
        A bar, the uncertain part around its end, and what is left of it.
    hit
        A place that stands out.
    """

    levels: str
    shades: str
    bar: str
    reach: str
    rest: str
    hit: str

    def level(self, share: float) -> str:
        """Return the mark of a share in [0, 1]; only exactly 0 has the first mark."""
        steps = len(self.levels) - 1
        return self.levels[0 if share <= 0 else min(steps, max(1, round(share * steps)))]

    def spark(self, shares: Iterable[float | None]) -> str:
        """Return a mark for each share, a blank for each that is not known."""
        return "".join(" " if share is None else self.level(share) for share in shares)

    def part(self, share: float) -> str:
        """Return the shade of a share in [0, 1]; none and all have shades of their own."""
        if share <= 0 or share >= 1:
            return self.shades[0 if share <= 0 else -1]
        return self.shades[1 + int(3 * share)]

    def parts(self) -> str:
        """Say what the shades mean."""
        names = ("none", "to 1/3", "to 2/3", "more", "all")
        return ", ".join(f"{shade} {name}" for shade, name in zip(self.shades, names, strict=True))

    def measure(self, share: float, width: int, reach: tuple[float, float] | None = None) -> str:
        """Return a bar of `width` characters that is filled up to `share`.

        From the lower end of `reach` to the upper the bar is marked as uncertain.
        """
        low, high = reach or (share, share)
        sure = round(min(low, share) * width)
        most = round(max(high, share) * width)
        return self.bar * sure + self.reach * (most - sure) + self.rest * (width - most)


UNICODE = Marks("·▁▂▃▄▅▆▇█", "·░▒▓█", "█", "▒", "·", "o")
ASCII = Marks(".,:-=+*%#", ".-+*#", "#", "~", ".", "o")


def marks_for(encoding: str | None) -> Marks:
    """Return the set that a stream of this encoding can show."""
    return UNICODE if (encoding or "").lower().startswith("utf") else ASCII
