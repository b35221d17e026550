"""What a user asks of the demo."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from scope_cpp.demo.sheet import Sheet, make_sheets
from scope_cpp.errors import UsageError
from scope_cpp.near import valid_are
from scope_cpp.reference.task import MIXES, ReferenceSample, Size, make_samples, read_samples
from scope_cpp.texts import NotText, decode

if TYPE_CHECKING:
    from scope_cpp.engine.model import Model

BOTH = "both"
MIX_NAMES = (BOTH, *MIXES)
N_QUESTIONS = Size().questions


@dataclass(frozen=True)
class Request:
    """Which sheets, and how many cells.

    Attributes
    ----------
    mix : str
        One of `MIXES`, or `BOTH`.
    n_samples : int
        Sheets of each mix.
    seed : int
    n_questions : int or None
        Of a sheet; ``None``: as long as the shipped model can write. Facts and filler words
        become fewer with them.
    beta : int or None
        Cells of the output; ``None``: a ninth of its tokens.
    budget : str or None
        Cells of prompt and output, instead of `beta`.
    sheets_file : str or None
        A file of samples to take instead of new ones.

    Raises
    ------
    UsageError
        For a value out of range.
    """

    mix: str = BOTH
    n_samples: int = 1
    seed: int = 1
    n_questions: int | None = None
    beta: int | None = None
    budget: str | None = None
    sheets_file: str | None = None

    def __post_init__(self) -> None:
        """Check what needs no model."""
        if self.mix not in MIX_NAMES:
            raise UsageError(f"unknown mix {self.mix!r}{valid_are(self.mix, MIX_NAMES)}")
        if self.beta is not None and self.budget is not None:
            raise UsageError("--beta and --budget both give cells: leave one out")
        for flag, value in (("--samples", self.n_samples), ("--beta", self.beta)):
            if value is not None and value < 1:
                raise UsageError(f"{flag} {value}: give at least 1")
        if self.sheets_file is not None and self.n_questions is not None:
            raise UsageError("--questions: the sheets of --sheets have their own; leave it out")

    def samples(self) -> list[ReferenceSample]:
        """Make or read the samples.

        Raises
        ------
        UsageError
            If the sizes do not fit, or the file can't be read or has none of the mix.
        """
        mixes = MIXES if self.mix == BOTH else (self.mix,)
        draw = self._made if self.sheets_file is None else self._read
        return [sample for mix in mixes for sample in draw(mix)]

    def sheets(self, model: Model) -> list[Sheet]:
        """Return the sheets for a model; see `make_sheets`."""
        return make_sheets(model, self.samples(), self.beta, self.budget)

    def _made(self, mix: str) -> list[ReferenceSample]:
        size = Size()
        n = N_QUESTIONS if self.n_questions is None else self.n_questions
        n_facts = max(2, -(-size.facts * n // size.questions))
        n_filler = size.filler * n // size.questions
        try:
            return make_samples(mix, self.n_samples, self.seed, n, n_facts, n_filler)
        except ValueError as err:
            raise UsageError(f"--questions {n}: {err}") from None

    def _read(self, mix: str) -> list[ReferenceSample]:
        path = str(self.sheets_file)
        try:
            decode(Path(path).read_bytes())
            samples = read_samples(Path(path))
        except OSError as err:
            raise UsageError(f"--sheets {path}: {err.strerror}") from None
        except NotText as err:
            raise UsageError(f"--sheets {path}: {err}") from None
        except ValueError as err:
            raise UsageError(f"--sheets {err}") from None
        chosen = [sample for sample in samples if sample.mix == mix][: self.n_samples]
        if len(chosen) < self.n_samples:
            raise UsageError(
                f"--sheets {path} has {len(chosen)} samples of the mix {mix!r}: "
                "give fewer --samples, or another --mix"
            )
        return chosen
