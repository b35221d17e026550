"""How long something still takes, and how that is written."""

from __future__ import annotations

from collections.abc import Callable


class TimeLeft:
    """The time that work still takes, from its speed since the first call.

    Parameters
    ----------
    clock
        Seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._began: tuple[float, float] | None = None

    def __call__(self, done: float, whole: float) -> float | None:
        """Return seconds; ``None`` while no speed is known."""
        now = self._clock()
        if self._began is None:
            self._began = now, done
        seconds, new = now - self._began[0], done - self._began[1]
        return (whole - done) * seconds / new if seconds > 0 and new > 0 else None


def duration(seconds: float) -> str:
    """Return a time as minutes and seconds, with hours where there are any."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
