"""LongProc's html_to_tsv (Ye et al., arXiv 2501.05414): F1 over the rows of a table.

Follows https://github.com/princeton-pli/LongProc. A row is right if all its cells are those of a
row of the gold table, without regard to case, punctuation, articles and spaces; the order of rows
and their number of repetitions do not matter.
"""

from __future__ import annotations

import csv
import re
import string
from collections.abc import Sequence

_FENCED = re.compile(r"```tsv(.*)```", re.DOTALL)
_ARTICLES = re.compile(r"\b(?:a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)
_EMPTY = "N/A"
Table = list[tuple[str, ...]]


def table_of(output: str) -> str:
    """Return the text between ```tsv and the last ```, or after ```tsv, or all."""
    fenced = _FENCED.search(output)
    inside = fenced[1] if fenced else output.partition("```tsv")[2] or output
    return inside.strip()


def parse(text: str) -> tuple[int, Table]:
    """Return the number of columns, by the header, and the rows below it, normalized.

    A last row that is cut off is left out; in any other row that does not fit the header all cells
    are empty.

    Raises
    ------
    ValueError
        There is no row below the header, or the text is no table.
    """
    try:
        header, *rows = csv.reader(text.strip().split("\n"), delimiter="\t")
    except (csv.Error, ValueError) as error:
        raise ValueError(f"the output is no table: {error}") from None
    if rows and len(rows[-1]) != len(header):
        rows.pop()
    if not rows:
        raise ValueError("the output has no row below a header")
    width = len(header)
    return width, [_normal(row if len(row) == width else [_EMPTY] * width) for row in rows]


def _normal(row: Sequence[str]) -> tuple[str, ...]:
    plain = (cell.lower().translate(_PUNCTUATION) for cell in row)
    return tuple("".join(_ARTICLES.sub(" ", cell).split()) for cell in plain)


def row_f1(output: str, gold: str) -> float:
    """Return F1 of the rows of an output.

    Raises
    ------
    ValueError
        The output holds no table of as many columns as the gold one.
    """
    gold_width, expected = parse(gold)
    width, found = parse(table_of(output))
    if width != gold_width:
        raise ValueError(f"the output's header has {width} columns, not {gold_width}")
    precision = sum(row in expected for row in found) / len(found)
    recall = sum(row in found for row in expected) / len(expected)
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0
