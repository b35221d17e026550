"""What a user asks of a run of an evaluation."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from scope_cpp.engine.sampling_params import RANDOM_SEED, RANGES
from scope_cpp.errors import UsageError

DEFAULT_TASK = "reference"
# temperatures where the user says nothing; help shows them, without NumPy
TEMP, FIDELITY_TEMP = 0.0, 0.7


@dataclass(frozen=True)
class Asked:
    """What a user asks of a run, as far as its results depend on it.

    Attributes
    ----------
    task, task_options, data
        Where the items come from.
    limit, seeds
        Most items of each seed; the first seed is that of the resampling too.
    template, temp
        Whether prompts go through the model's chat template, or the template instead of that, see
        `format_chat`; temperature of the sampling, ``None`` for the task's own.
    log_samples
        Whether prompts and golds go into the predictions.
    """

    task: str
    task_options: tuple[str, ...] = ()
    data: Path | None = None
    limit: int | None = None
    seeds: tuple[int, ...] = (0,)
    template: bool | str = False
    temp: float | None = None
    log_samples: bool = False

    def __post_init__(self) -> None:
        """Check the seeds and the temperature."""
        if not self.seeds or not all(0 <= seed < RANDOM_SEED for seed in self.seeds):
            asked = ", ".join(map(str, self.seeds))
            raise UsageError(f"--seed {asked}: give 0 or more, at most {RANDOM_SEED - 1}")
        if self.temp is not None:
            RANGES["temp"].check("--temp", self.temp)

    @property
    def seed(self) -> int:
        """The first seed."""
        return self.seeds[0]
