"""How far a bounded cache moves a model from what it would write with the full one; no labels.

The full cache writes a text for each prompt, and every row is fed that text, see
`scope_cpp.eval.fidelity`. It is to bounded caches what ``llama-perplexity --kl-divergence`` is to
quantized weights. What is scored, over the tokens after a row ran out of cells, lower is better:

============  ==================================================================================
``kl``        mean KL(full || row) in nats
``late``      the same over the last quarter of the text
``worst``     the same over the worst 1 % of the tokens: what has to be looked up far back is rare
``disagree``  share of the tokens for which another token is the most likely one
``nll``       mean of how much less likely the row takes the text's token to be, in nats
============  ==================================================================================

A sample's questions are the quarters of its whole text.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import ClassVar

from scope_cpp.errors import ScopeError
from scope_cpp.eval.asked import FIDELITY_TEMP
from scope_cpp.eval.fidelity.divergence import NOTHING_EVICTED, Divergence, mean, parts, worst
from scope_cpp.eval.task import Item, Option, Output, Score, Source, Task
from scope_cpp.eval.tasks.data import Row, read_items, text
from scope_cpp.eval.tasks.options import read_options

PROMPTS = "fidelity_prompts.jsonl"


class Fidelity(Task):
    """Groups are the kinds of prompts."""

    name: ClassVar[str] = "fidelity"
    summary: ClassVar[str] = "KL divergence from the full cache's next-token distributions"
    scorers: ClassVar[tuple[str, ...]] = ("kl", "late", "worst", "disagree", "nll")
    lower_is_better: ClassVar[bool] = True
    per_sample: ClassVar[bool] = True
    compares: ClassVar[bool] = True
    temp: ClassVar[float] = FIDELITY_TEMP
    where: ClassVar[str] = (
        'A file has a JSON object with a "prompt" on each line, and "id" and "kind" if you like;'
        " without --data the prompts that come along are used"
    )
    options: ClassVar[dict[str, Option]] = {
        "tokens": Option(1000, "longest text that the full cache writes, in tokens", low=8),
        "raw": Option(0, "1: continue the prompts as plain text, without a chat template", high=1),
    }

    def items(self, source: Source) -> list[Item]:
        """Read prompts, each a text to be written."""
        values = read_options(self, source)
        if source.data is None:
            source = replace(source, data=Path(str(files(__package__) / PROMPTS)))

        def make(name: str, row: Row) -> Item:
            prompt = text(row, "prompt")
            tokens = source.tokenize(prompt) if values["raw"] and source.tokenize else ()
            return Item(
                id=str(row.get("id", name)),
                prompt=prompt,
                n_predict=values["tokens"],
                gold=None,
                group=text(row, "kind") if "kind" in row else "",
                prompt_tokens=tuple(tokens),
            )

        return read_items(self, source, make)

    def score(self, item: Item, output: Output, scorer: str) -> Score:
        """Sum up what was measured by token.

        Raises
        ------
        ScopeError
            Nothing was compared.
        """
        found = output.divergence
        if found is None:
            raise ScopeError(
                f"{item.id}: an output alone has no score here: 'scope eval run --task "
                f"{self.name}' compares rows with the full cache"
            )
        problems: tuple[str, ...] = ()
        if found.counted is None:
            problems = (f"{NOTHING_EVICTED}: all {len(found.kl)} tokens had a cell",)
        return Score(parts(_values(found, scorer)), _SUMS[scorer](found), problems)

    def positions(self, output: Output, score: Score, scorer: str) -> Sequence[float]:
        """Return what was measured, token by token."""
        return () if output.divergence is None else _values(output.divergence, scorer)


def _values(found: Divergence, scorer: str) -> Sequence[float]:
    """Return what a scorer sums up, token by token, from the first on."""
    if scorer == "disagree":
        return [1.0 - same for same in found.same]
    return found.extra if scorer == "nll" else found.kl


def _mean_of(scorer: str) -> Callable[[Divergence], float]:
    return lambda found: mean(_values(found, scorer)[found.counted or 0 :])


def _late(found: Divergence) -> float:
    n = len(found.kl)
    return mean(found.kl[max(found.counted or 0, 3 * n // 4) :])


_SUMS: dict[str, Callable[[Divergence], float]] = {
    "kl": _mean_of("kl"),
    "late": _late,
    "worst": lambda found: worst(found.kl[found.counted or 0 :]),
    "disagree": _mean_of("disagree"),
    "nll": _mean_of("nll"),
}
