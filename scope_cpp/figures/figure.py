"""What a figure is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

from scope_cpp.figures.marks import Marks
from scope_cpp.figures.table import Table


class Figure(ABC):
    """Numbers that were taken from a run, and three ways to show them.

    Attributes
    ----------
    name
        What ``scope plot`` calls it, and what its files are called.
    size
        Width and height of the picture in inches.
    run
        What was run: the model, the task, the cells.
    """

    name: ClassVar[str]
    run: str

    @property
    @abstractmethod
    def title(self) -> str:
        """What is shown."""

    @property
    def size(self) -> tuple[float, float]:
        """Width and height of the picture in inches."""
        return 8.0, 4.5

    @abstractmethod
    def table(self) -> Table:
        """Return the numbers that are drawn."""

    @abstractmethod
    def draw(self, canvas: Any) -> None:
        """Draw into an empty ``matplotlib.figure.Figure``; the title is added by the caller."""

    @abstractmethod
    def text(self, width: int, marks: Marks) -> str:
        """Return a rendering for a terminal of `width` columns, without the title."""
