"""What a training step reads: sizes from easy to full, drills until recall works, short chats."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from random import Random

from reference_training.data import KINDS, TRAINING, Batch, batch, stream
from scope_cpp.reference.task import Size

LEVELS = (
    Size(3, 6, 2),
    Size(5, 10, 3),
    Size(8, 16, 5),
    Size(12, 24, 8),
    Size(20, 36, 12),
    Size(32, 52, 20),
    Size(48, 64, 26),
    Size(96, 112, 40),
    Size(150, 170, 50),
    Size(),
)
# An accuracy that is enough to advance, by kind of token, averaged over about 12 batches.
ENOUGH = 0.95
RECALLED = 0.9
SMOOTHING = 0.08
SHARE_OF_DRILLS = (0.5, 0.05)
SHARE_OF_CHATS = 0.08
SHARE_OF_EASIER = 0.2
# The last level begins at this share of the training, the earlier ones in proportion, even where
# the accuracy is not enough.
LAST_LEVEL_AT = 0.5
MIN_TOKENS = 4096


@dataclass
class Curriculum:
    """The level, and a running accuracy of each kind of token at it."""

    level: int = 0
    recall: float = 0.0
    accuracy: dict[str, float] = field(default_factory=dict)
    steps_at_level: int = 0

    def next_batch(self, seed: int, step: int) -> tuple[str, bool, Batch]:
        """Kind of the batch, whether it is at the current level, and the batch."""
        rng = stream(f"{TRAINING} plan", seed, step)
        kind, level = self._draw(rng)
        size = LEVELS[level]
        return kind, level == self.level, batch(kind, size, MIN_TOKENS, seed, step)

    def _draw(self, rng: Random) -> tuple[str, int]:
        level = self.level
        if rng.random() < SHARE_OF_EASIER:
            level = rng.randrange(level + 1)
        share = rng.random()
        drills = SHARE_OF_DRILLS[self.recall > RECALLED]
        if share < drills:
            return "drill", level
        return ("chat" if share < drills + SHARE_OF_CHATS else "chain"), level

    def learned(self, kind: str, current: bool, accuracy: dict[str, float]) -> None:
        """Take the accuracy of a batch, by kind of token, into account."""
        if kind in ("drill", "chain") and "value" in accuracy:
            self.recall += SMOOTHING * (accuracy["value"] - self.recall)
        if kind == "chain" and current:
            self.steps_at_level += 1
            for name, value in accuracy.items():
                old = self.accuracy.get(name, 0.0)
                self.accuracy[name] = old + SMOOTHING * (value - old)

    @property
    def worst(self) -> float:
        """The lowest accuracy; ends are too few in a batch to count."""
        return min(self.accuracy.get(name, 0.0) for name in KINDS if name != "end")

    def advance(self, progress: float) -> None:
        """Go to the next level if this one is learned, or if it is time."""
        last = len(LEVELS) - 1
        due = progress > LAST_LEVEL_AT * (self.level + 1) / last
        if self.level == last or not (due or self.worst > ENOUGH):
            return
        self.level += 1
        self.steps_at_level = 0
        self.accuracy = {name: 0.8 * value for name, value in self.accuracy.items()}

    def asdict(self) -> dict[str, object]:
        """State for a checkpoint."""
        return asdict(self)
