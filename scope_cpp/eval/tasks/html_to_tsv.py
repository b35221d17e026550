"""LongProc html_to_tsv: a table out of a web page."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from scope_cpp.errors import ScopeError
from scope_cpp.eval.scorers.tsv import parse, row_f1
from scope_cpp.eval.task import Item, Output, Score, Source, Task
from scope_cpp.eval.tasks.data import BadRow, Row, data_path, read_items, read_text, text
from scope_cpp.eval.tasks.longproc import fill, longest_output, read_template, where
from scope_cpp.eval.tasks.options import read_options

_SIZES = {"0.5k": 512, "2k": 2048, "8k": 8192}
_CHARACTERS_PER_TOKEN = 3


class LongProcHtmlToTsv(Task):
    """Scored by F1 of rows."""

    name: ClassVar[str] = "longproc-html-to-tsv"
    summary: ClassVar[str] = "extract a table from a web page (LongProc)"
    where: ClassVar[str] = f"{where('html_to_tsv')}, and the web pages (webpage/*.html)"

    def items(self, source: Source) -> list[Item]:
        """Read LongProc's file; its prompts and the web pages lie beside it."""
        read_options(self, source)
        path = data_path(self, source)
        template = read_template(path, "html_to_tsv")

        def make(name: str, row: Row) -> Item:
            gold = text(row, "gt")
            try:
                parse(gold)
            except ValueError as error:
                raise BadRow(f"'gt': {error}") from None
            values = {key: text(row, key) for key in ("task_topic", "task_description")}
            values["tsv_header"] = text(row, "tsv_header")
            values["filtering_instruction"] = str(row.get("filtering_instruction", ""))
            values["html_str"] = _page(path.parent, text(row, "html_path"))
            group = str(row.get("output_length_group", ""))
            return Item(
                id=str(row.get("task_id", name)),
                prompt=fill(template, values),
                n_predict=longest_output(_SIZES.get(group, len(gold) // _CHARACTERS_PER_TOKEN)),
                gold=gold,
                group=group,
            )

        return read_items(self, source, make)

    def score(self, item: Item, output: Output, scorer: str) -> Score:
        """Compare rows."""
        try:
            value = row_f1(output.text, item.gold)
        except ValueError as error:
            return Score((0.0,), 0.0, (str(error),))
        return Score((value,), value)


def _page(folder: Path, name: str) -> str:
    path = (folder / name).resolve()
    if not path.is_relative_to(folder.resolve()):
        raise BadRow(f"'html_path' {name!r} leads out of the data's folder")
    if not path.is_file():
        raise BadRow(f"the page {name} is not beside the file")
    try:
        return read_text(path)
    except ScopeError as error:
        raise BadRow(str(error)) from None
