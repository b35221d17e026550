"""One row of a table: all that its process must know, as plain values."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from scope_cpp.engine.settings import Settings


@dataclass(frozen=True)
class Compute:
    """What is the same in all rows: the model, and how llama.cpp computes.

    Attributes
    ----------
    model
        Path of the GGUF file.
    n_threads, n_threads_batch, n_batch, n_ubatch, type_k, type_v, n_gpu_layers, use_mmap
        As llama.cpp's; 0 threads: one for each physical core; ``None`` layers: its default.
    seed
        Of the random tokens that fill the cache.
    """

    model: str
    n_threads: int = Settings.n_threads
    n_threads_batch: int = Settings.n_threads_batch
    n_batch: int = Settings.n_batch
    n_ubatch: int = Settings.n_ubatch
    type_k: str = Settings.type_k
    type_v: str = Settings.type_v
    n_gpu_layers: int | None = None
    use_mmap: bool = True
    seed: int = 0


@dataclass(frozen=True)
class Row:
    """What one process measures.

    Attributes
    ----------
    test
        Kind of the test: ``gen``, ``memory``, ``prompt``, ``turn``, ``python`` or ``parallel``.
    role
        ``full``: the full cache at the depth. ``same``: it at as many cells as a bounded row has.
        ``hooks``: that with our library, hooks not initialised. ``bounded``: a policy.
    flash
        ``on`` or ``off``.
    cells
        Cells in use while a token is computed; of a bounded row, its capacity.
    n_read
        Tokens that one step of a full row reads.
    n_steps
        Steps of a block.
    n_prompt, depth
        Tokens of the prompt, and position at which generation is measured.
    n_predict
        Longest output that the policy is told of.
    fill
        ``copy``: cells are copies of a few. ``read``: the prompt is read, the rest are copies.
        ``decode``: nothing is copied.
    policy, prefill, granularity, options
        See `scope_cpp.engine.settings.Settings`.
    beta, budget
        Cells of the output's pool; or of prompt and output, as text, which then counts.
    n_turns
        Turns of a conversation.
    n_rows
        Texts that are written at once; `cells` are those of all.
    """

    test: str
    role: str
    flash: str
    cells: int
    n_read: int = 1
    n_steps: int = 1
    n_prompt: int = 0
    depth: int = 0
    n_predict: int = 0
    fill: str = "copy"
    policy: str | None = None
    prefill: str = "full"
    granularity: str = "head"
    options: tuple[str, ...] = ()
    beta: int = 0
    budget: str | None = None
    n_turns: int = 0
    n_rows: int = 1

    @property
    def bounded(self) -> bool:
        """Whether the row runs through the engine."""
        return self.role == "bounded"

    @property
    def label(self) -> str:
        """What the table calls the policy."""
        if self.role != "bounded":
            return {"full": "full", "same": "full, same cells", "hooks": "full, hooks off"}[
                self.role
            ]
        return ":".join((self.policy or "", *self.options))

    @property
    def measures(self) -> str:
        """What is timed, as llama-bench writes it: ``pp`` reads tokens, ``tg`` generates them."""
        if self.test == "turn":
            return f"turn {self.n_turns}" if self.bounded else f"pp{self.n_read} @ d{self.filled}"
        if self.test == "prompt":
            return f"pp{self.n_read}"
        rows = f" x{self.n_rows}" if self.test == "parallel" else ""
        return f"tg{self.n_steps} @ d{self.filled}{rows}"

    @property
    def full_cells(self) -> int:
        """Cells that the full cache takes for one text."""
        return self.n_prompt + self.n_predict

    @property
    def full_rows(self) -> int:
        """Texts for which the full cache has room in these cells."""
        return self.cells // self.full_cells

    @property
    def filled(self) -> int:
        """Position of the first token that a step computes."""
        return self.depth if self.bounded else self.cells - self.n_read

    def to_json(self) -> dict[str, Any]:
        """Plain values of all fields."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Row:
        """Build a row from `to_json`."""
        return cls(**{**values, "options": tuple(values["options"])})
