"""The methods that are shown beside each other."""

from __future__ import annotations

from dataclasses import dataclass

from scope_cpp.engine.settings import DEFAULT_POLICY, Settings


@dataclass(frozen=True)
class Row:
    """A method.

    Attributes
    ----------
    title : str
        As it is shown.
    policy, options
        As on the command line.
    """

    title: str
    policy: str
    options: tuple[str, ...] = ()

    @property
    def is_full(self) -> bool:
        """Whether it keeps everything."""
        return self.policy == "full"

    @property
    def is_scope(self) -> bool:
        """Whether it is one of SCOPE's strategies."""
        return self.policy.startswith("scope-")

    @property
    def is_default(self) -> bool:
        """Whether it is what a user gets who names no method."""
        return self.policy == DEFAULT_POLICY

    def settings(self, n_cells: int, n_threads: int) -> Settings:
        """Return the engine's settings for a budget of `n_cells`; the full cache has none."""
        return Settings(
            policy=self.policy,
            options=self.options,
            budget=None if self.is_full else n_cells,
            n_threads=n_threads,
            n_threads_batch=n_threads,
        )


ROWS = (
    Row("full cache", "full"),
    Row("SCOPE retrieval", "scope-retrieval"),
    Row("SCOPE foresight", "scope-foresight", ("interval=auto",)),
    Row("SCOPE slide", "scope-slide", ("interval=auto",)),
    Row("SCOPE adaptive", "scope-adaptive"),
    Row("SCOPE discontinuous", "scope-discontinuous"),
    Row("H2O", "h2o"),
    Row("StreamingLLM", "streaming-llm"),
)
