"""What a task is: items that are given to a model, and how its outputs are scored.

A task reads its items from a file or makes them; the runner turns each into an output under each
configuration of the cache, and the task scores it. How an item is read:

==================  ===============  ==========================================================
``n_predict``       ``forced``       the runner
==================  ===============  ==========================================================
> 0                 empty            reads the prompt, then generates
> 0                 given            reads the prompt, decodes `forced` token by token through
                                     the bounded cache as if it had been generated, then generates;
                                     `Output.text` is what was generated after it, and
                                     `n_predict` counts only that
0                   given            reads the prompt, decodes `forced` in the same way and notes
                                     the negative log-likelihood of each of its tokens, in nats,
                                     in `Output.nll` (perplexity); `Output.text` is empty
==================  ===============  ==========================================================

Where an item gives tokens (`prompt_tokens`, `forced_tokens`), these are read instead of the texts,
as they are: no BOS is added and no chat template is applied. Tasks that cut text into tokens
ask the runner for a tokenizer (`Task.needs_tokenizer`); it comes as `Source.tokenize`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, TypeAlias

from scope_cpp.eval.asked import TEMP
from scope_cpp.eval.fidelity.divergence import Divergence

JsonValue: TypeAlias = Any
"""None, bool, int, float, str, and lists and string-keyed dicts of these."""


@dataclass(frozen=True)
class Item:
    """One request to the model.

    Attributes
    ----------
    id : str
        Unique within a task, the same from run to run.
    prompt : str
        The text as the task's authors format it.
    n_predict : int
        Longest output, in tokens; 0: nothing is generated, `forced` is measured.
    gold : JsonValue
        What the scorer needs.
    group : str
        What reports are split by: the mix, the subject, the depth of a needle.
    messages : tuple of dict
        The chat, for the model's own template; empty: one user message with `prompt`.
    stop : tuple of str
        Strings that end the output.
    forced : str
        Text that is decoded token by token as if it had been generated, see the module.
    prompt_tokens, forced_tokens : tuple of int
        Tokens of the model that the items were made for; read instead of the texts.
    """

    id: str
    prompt: str
    n_predict: int
    gold: JsonValue
    group: str = ""
    messages: tuple[dict[str, str], ...] = ()
    stop: tuple[str, ...] = ()
    forced: str = ""
    prompt_tokens: tuple[int, ...] = ()
    forced_tokens: tuple[int, ...] = ()


@dataclass(frozen=True)
class Output:
    """What a model wrote: text, tokens, why it ended, and NLL in nats by forced token.

    Where rows are compared with the full cache's text (`Task.compares`): how far it is from that.
    """

    text: str
    n_tokens: int
    finish: str
    nll: tuple[float, ...] = ()
    divergence: Divergence | None = None


@dataclass(frozen=True)
class Score:
    """How good an output is.

    Attributes
    ----------
    correct : tuple of float
        By question, in order: 1.0, 0.0 or a share; for perplexity the mean NLL of each quarter.
    value : float
        The sample's score: 0 to 1, higher is better; for perplexity the mean NLL in nats.
    problems : tuple of str
        What was odd about the output or the item, one line each.
    """

    correct: tuple[float, ...]
    value: float
    problems: tuple[str, ...] = ()


def _silent(message: str) -> None:
    """Drop a warning."""


@dataclass(frozen=True)
class Source:
    """Where items come from.

    Attributes
    ----------
    data : Path or None
        The task's file; None: items are made, or the task says where to get the file.
    limit : int or None
        Most items.
    seed : int
        For items that are made or drawn.
    warn : callable
        Takes one line about what was skipped.
    options : tuple of str
        ``key=value`` of ``--task-option``.
    tokenize : callable or None
        Text to tokens of the model, as a document of its own (BOS added where the model has one,
        special tokens in the text not parsed); None where no model is at hand.
    """

    data: Path | None = None
    limit: int | None = None
    seed: int = 0
    warn: Callable[[str], None] = _silent
    options: tuple[str, ...] = ()
    tokenize: Callable[[str], list[int]] | None = None


@dataclass(frozen=True)
class Option:
    """An option of a task, ``--task-option key=value``.

    Attributes
    ----------
    default : int, str or tuple
        Its type says what a value must be; a tuple takes several, separated by commas.
    text : str
        One line of help.
    low, high : int
        Smallest and largest valid number.
    choices : tuple of str
        Valid words.
    """

    default: int | str | tuple[int, ...] | tuple[str, ...]
    text: str
    low: int = 0
    high: int = 2**31
    choices: tuple[str, ...] = ()


class Task(ABC):
    """Base of all tasks: one file of ``tasks/`` each."""

    name: ClassVar[str]
    summary: ClassVar[str]
    scorers: ClassVar[tuple[str, ...]] = ("strict",)
    """Names that `score` takes; the first is the default."""
    lower_is_better: ClassVar[bool] = False
    per_sample: ClassVar[bool] = False
    """Whether the score of all samples is the mean over samples, instead of over all questions."""
    compares: ClassVar[bool] = False
    """Whether rows are fed the text that the full cache writes, and compared with it by token."""
    temp: ClassVar[float] = TEMP
    """Temperature where the user says nothing."""
    needs_tokenizer: ClassVar[bool] = False
    where: ClassVar[str] = ""
    """Where to get the data, for the error where it is absent; empty: the task makes its items."""
    options: ClassVar[Mapping[str, Option]] = {}

    @abstractmethod
    def items(self, source: Source) -> list[Item]:
        """Return the items.

        Raises
        ------
        UsageError
            No data where the task needs some, an unknown option or a bad value.
        ScopeError
            The data cannot be read or holds no usable item.
        """

    @abstractmethod
    def score(self, item: Item, output: Output, scorer: str) -> Score:
        """Score an output by a scorer of `scorers`."""

    def kinds(self, item: Item) -> Sequence[str]:
        """Return what kind each question is of, for reports; nothing where all are of one kind."""
        return ()

    def positions(self, output: Output, score: Score, scorer: str) -> Sequence[float]:
        """Return what a figure shows by position of the output: the score's questions."""
        return score.correct

    def total(self, scores: Sequence[Score]) -> float:
        """Return the score of all samples: the mean over all questions (micro average).

        With `per_sample` it is the mean of the samples' scores.
        """
        values = [value for score in scores for value in score.correct]
        if self.per_sample:
            values = [score.value for score in scores]
        return sum(values) / len(values) if values else 0.0
