"""From token pieces to text: characters and stop strings that straddle tokens."""

from __future__ import annotations

import codecs
from collections.abc import Iterable

from scope_cpp.errors import UsageError


class Utf8Decoder:
    """Decode UTF-8 that arrives in arbitrary splits.

    A character whose bytes are not all there is held back until they are. Bytes that can never
    become a character give U+FFFD, as ``bytes.decode(errors="replace")`` of the whole would.
    """

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, piece: bytes) -> str:
        """Return the characters that `piece` completes."""
        return self._decoder.decode(piece)

    def finish(self) -> str:
        """Return what is left: U+FFFD for a character that was never completed."""
        return self._decoder.decode(b"", final=True)


class StopStrings:
    """Cut a text that arrives in arbitrary splits before the first stop string.

    The stop string that is complete first wins, and of several that end together the longest,
    so the result does not depend on the splits and no text is awaited beyond a complete stop.
    Text that may be the beginning of a stop string is held back.

    Parameters
    ----------
    stops : iterable of str
        May be empty; then all text passes.

    Raises
    ------
    UsageError
        When a stop string is empty.
    """

    def __init__(self, stops: Iterable[str] = ()) -> None:
        self._stops = tuple(stops)
        if "" in self._stops:
            raise UsageError("a stop string is empty: give at least one character")
        self._longest = max(map(len, self._stops), default=0)
        self._held = ""
        self.matched: str | None = None

    def push(self, text: str) -> str:
        """Return what of the text so far can be shown now; nothing once a stop has matched."""
        if self.matched is not None:
            return ""
        self._held += text
        hit = self._first_hit()
        if hit is not None:
            start, self.matched = hit
            shown, self._held = self._held[:start], ""
            return shown
        return self._release(len(self._held) - self._overlap())

    def finish(self) -> str:
        """Return what was held back and turned out not to be a stop string."""
        return self._release(len(self._held))

    def _release(self, n: int) -> str:
        shown, self._held = self._held[:n], self._held[n:]
        return shown

    def _first_hit(self) -> tuple[int, str] | None:
        found = ((self._held.find(stop), stop) for stop in self._stops)
        ends = [(start + len(stop), start, stop) for start, stop in found if start >= 0]
        if not ends:
            return None
        _, start, stop = min(ends)
        return start, stop

    def _overlap(self) -> int:
        """Length of the longest end of the held text that begins some stop string."""
        for n in range(min(self._longest - 1, len(self._held)), 0, -1):
            tail = self._held[-n:]
            if any(stop.startswith(tail) for stop in self._stops):
                return n
        return 0


class TextStream:
    """Token pieces in, text out: `Utf8Decoder` followed by `StopStrings`."""

    def __init__(self, stops: Iterable[str] = ()) -> None:
        self._decoder = Utf8Decoder()
        self._stops = StopStrings(stops)

    @property
    def matched(self) -> str | None:
        """The stop string that ended the text, or None."""
        return self._stops.matched

    def push(self, piece: bytes) -> str:
        """Return the text that can be shown after one more token piece."""
        return self._stops.push(self._decoder.push(piece))

    def finish(self) -> str:
        """Return the rest of the text."""
        return self._stops.push(self._decoder.finish()) + self._stops.finish()
