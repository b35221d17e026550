"""LongProc countdown: a depth-first search that is written out, and its solution."""

from __future__ import annotations

from typing import ClassVar

from scope_cpp.eval.scorers.countdown import demonstration, share_of_search, solves
from scope_cpp.eval.task import Item, Output, Score, Source, Task
from scope_cpp.eval.tasks.data import BadRow, Row, data_path, listed, read_items, whole
from scope_cpp.eval.tasks.longproc import fill, longest_output, read_template, where
from scope_cpp.eval.tasks.options import read_options

# LongProc's two worked examples
_EXAMPLES = (([40, 19, 23, 7], 29), ([9, 16, 6, 18], 12))
_CHARACTERS_PER_TOKEN = 2.5


class LongProcCountdown(Task):
    """Scores: ``strict`` is whether the solution is right; ``partial`` the share of the search."""

    name: ClassVar[str] = "longproc-countdown"
    summary: ClassVar[str] = "reach a number by arithmetic, the search written out (LongProc)"
    scorers: ClassVar[tuple[str, ...]] = ("strict", "partial")
    where: ClassVar[str] = where("countdown")

    def items(self, source: Source) -> list[Item]:
        """Read LongProc's file; its prompts lie beside it."""
        read_options(self, source)
        template = read_template(data_path(self, source), "countdown")
        examples = "\n\n".join(
            f"# Example\nNumbers: {numbers}\nTarget: {target}\n\n{demonstration(numbers, target)}"
            for numbers, target in _EXAMPLES
        )

        def make(name: str, row: Row) -> Item:
            numbers, target = listed(row, "nums", int), whole(row, "target")
            if len(numbers) != 4 or min(numbers) < 0 or max(numbers) >= 10**6:
                raise BadRow("'nums' must hold four numbers from 0 on")
            gold = demonstration(numbers, target)
            if gold is None:
                raise BadRow(f"{target} cannot be reached from {numbers}")
            values = {"demonstration": examples, "nums": str(numbers), "target": str(target)}
            estimate = round(len(gold) / _CHARACTERS_PER_TOKEN)
            n_tokens = row.get("num_search_tokens")
            return Item(
                id=name,
                prompt=fill(template, values),
                n_predict=longest_output(n_tokens if isinstance(n_tokens, int) else estimate),
                gold={"nums": numbers, "target": target, "procedure": gold},
            )

        return read_items(self, source, make)

    def score(self, item: Item, output: Output, scorer: str) -> Score:
        """Check the solution, or follow the search up to its first wrong step."""
        gold = item.gold
        solved = solves(output.text, gold["nums"], gold["target"])
        value = float(bool(solved))
        if scorer == "partial" and not solved:
            value = share_of_search(output.text, gold["procedure"])
        problems = () if solved is not None else ("no <Solution>...</Solution> in the output",)
        return Score((value,), value, problems)
