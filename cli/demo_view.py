"""What the demo shows, as lines of text for a terminal of any size; no colour says anything."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from typing import NamedTuple

from scope_cpp.demo.outcome import Outcome, Text
from scope_cpp.demo.run import Demo
from scope_cpp.demo.story import introduction, story
from scope_cpp.engine.budget import format_bytes

from .chat.heatmap import legend, strip

BAR = 8
FEW_MAPS, ALL_MAPS = 3, 7


class Line(NamedTuple):
    """A line, and whether it is strong (2), plain (1) or weak (0)."""

    text: str
    weight: int = 1


class Column(NamedTuple):
    """A column of the table, and its rank: the highest is left out first where room is short."""

    title: str
    width: int
    rank: int


_COLUMNS = {
    "title": Column("", 19, 0),
    "bar": Column("", BAR + 1, 5),
    "right": Column("right", 7, 0),
    "quarters": Column("by quarter (%)", 17, 2),
    "cells": Column("cells", 8, 1),
    "memory": Column("KV", 10, 3),
    "speed": Column("tokens/s", 9, 4),
}

Block = list[Line]


def whole(demo: Demo, columns: int, rows: int, shades: str) -> Block:
    """Everything at the end, in less than `rows` lines if it can be had so."""
    head, body = intro(demo, columns), table(demo, columns, shades)
    few, every = (maps(demo, columns, shades, n) for n in (FEW_MAPS, ALL_MAPS))
    told = sentences(demo)
    apart = [line for sentence in told for line in _wrap(sentence, columns)]
    joined = _wrap(" ".join(told), columns)
    tries = [
        _stack(head, body, every, apart),
        _stack(head, body, few, apart),
        *(_stack(head, body, few, joined, blank=blank) for blank in (3, 2, 1, 0)),
        _stack(body, few, joined),
        _stack(body, joined),
    ]
    return next((lines for lines in tries if len(lines) < rows), tries[2])


def ending(demo: Demo, columns: int, shades: str) -> Block:
    """What follows the table where there is room for all."""
    told = [line for sentence in sentences(demo) for line in _wrap(sentence, columns)]
    return _stack(maps(demo, columns, shades, ALL_MAPS), told)


def intro(demo: Demo, columns: int) -> Block:
    """What is about to happen."""
    return _wrap(introduction(demo.outcomes), columns)


def sentences(demo: Demo) -> list[str]:
    """What was seen, and whether it is all."""
    told = story(demo.outcomes)
    if demo.interrupted:
        n = sum(outcome.finished for outcome in demo.outcomes)
        told.append(f"Stopped: {n} of {len(demo.outcomes)} rows are finished.")
    return told


def running(demo: Demo, now: Outcome | None, columns: int, rows: int, shades: str) -> Block:
    """Everything while it runs, in less than `rows` lines."""
    head = intro(demo, columns)
    body, state = table(demo, columns, shades, now), status(demo, now, columns)
    few = maps(demo, columns, shades, FEW_MAPS)
    tries = [
        _stack(head, body, few, state),
        _stack(head, body, state),
        _stack(body, state),
        [*body, *state],
    ]
    fits = next((lines for lines in tries if len(lines) < rows), state)
    return fits[: max(1, rows - 1)]


def table(demo: Demo, columns: int, shades: str, now: Outcome | None = None) -> Block:
    """A row for each method; those that are not begun have no numbers."""
    shown = _fitting(columns)
    n_title = columns - sum(_COLUMNS[name].width for name in shown[1:])
    n_title = max(1, min(n_title, _COLUMNS["title"].width))
    lines = [Line(" " * n_title + "".join(_head(name) for name in shown[1:]), 0)]
    for outcome in demo.outcomes:
        cells = _cells(outcome, shades)
        title = f"{outcome.row.title:<{n_title}.{n_title}}"
        text = (title + "".join(cells[name] for name in shown[1:])).rstrip()
        lines.append(Line(text, 2 if outcome is now else int(bool(outcome.texts))))
    return lines


def maps(demo: Demo, columns: int, shades: str, most: int) -> Block:
    """Which positions each method still has at the end, one line each, of the first sheet."""
    chosen = [outcome for outcome in demo.outcomes if not outcome.row.is_full]
    if most < len(chosen):
        chosen = [o for o in chosen if o.row.is_default or not o.row.is_scope]
    texts = [(o.row.title, o.texts[0]) for o in chosen if o.texts and o.texts[0].kept is not None]
    sheet = demo.sheets[0]
    label = _COLUMNS["title"].width + 1
    room = columns - label - 3
    if not texts or room < 10:
        return []
    # whole marks on both sides of the border
    n_text = sheet.n_prompt + sheet.n_output
    per = max(1, -(-n_text // (room - 1)))
    n_prompt = -(-sheet.n_prompt // per)
    titles = (f"{'prompt':<{n_prompt}.{n_prompt}}", "output")
    lines = [Line(f"{'in memory at the end':<{label}} {titles[0]}|{titles[1]}"[:columns], 0)]
    lines += [
        Line(f"{title:<{label}} {_strips(text, per, shades)}"[:columns]) for title, text in texts
    ]
    return [*lines, *(Line(line.text, 0) for line in _wrap(legend(per, shades), columns))]


def status(demo: Demo, now: Outcome | None, columns: int) -> Block:
    """What is being written, and how long the rest will take."""
    if now is None or not now.texts:
        return [Line("reading the prompt", 0)]
    text = now.texts[-1]
    which = f", text {len(now.texts)} of {len(now.sheets)}" if len(now.sheets) > 1 else ""
    parts = [
        f"{now.row.title}{which}: {text.stats.n_generated:,} of {text.sheet.n_output:,} tokens",
        *time_left(demo),
        "Ctrl-C stops",
    ]
    while len(parts) > 1 and len(" | ".join(parts)) > columns:
        parts.pop()
    return [Line(" | ".join(parts)[:columns], 0)]


def time_left(demo: Demo) -> Iterator[str]:
    """Yield about how long the rest takes, once that can be said."""
    seconds = demo.seconds_left()
    if seconds is not None:
        yield f"about {max(1, round(seconds))} s left"


def _stack(*blocks: Block, blank: int | None = None) -> Block:
    """Blocks with an empty line before each of the last `blank`, or before all but the first."""
    shown = [block for block in blocks if block]
    without = len(shown) - (len(shown) - 1 if blank is None else blank)
    lines: Block = []
    for i, block in enumerate(shown):
        lines += [Line("")] * (i >= max(1, without)) + block
    return lines


def _wrap(text: str, columns: int) -> Block:
    return [Line(line) for line in textwrap.wrap(text, columns)]


def _fitting(columns: int) -> list[str]:
    """Columns of the table that there is room for."""
    names = list(_COLUMNS)
    while sum(_COLUMNS[name].width for name in names) > columns and len(names) > 2:
        names.remove(max(names, key=lambda name: _COLUMNS[name].rank))
    return names


def _head(name: str) -> str:
    column = _COLUMNS[name]
    return f"{column.title:>{column.width}}"


def _cells(outcome: Outcome, shades: str) -> dict[str, str]:
    """The numbers of a row as padded texts."""
    values = dict.fromkeys(_COLUMNS, "")
    if outcome.texts:
        quarters = "".join(_percent(quarter, 4) for quarter in outcome.quarters())
        speed = outcome.tokens_per_second
        values |= {
            "bar": _bar(outcome.accuracy, shades),
            "right": _percent(outcome.accuracy, 0, "%"),
            "quarters": quarters,
            "cells": f"{outcome.cells:,}",
            "memory": format_bytes(outcome.kv_bytes),
            "speed": "" if speed is None else f"{speed:,.0f}",
        }
    return {name: f"{value:>{_COLUMNS[name].width}}" for name, value in values.items()}


def _bar(share: float | None, shades: str) -> str:
    full = round(BAR * (share or 0))
    return shades[-1] * full + shades[0] * (BAR - full)


def _percent(share: float | None, width: int, sign: str = "") -> str:
    return f"{'' if share is None else f'{share * 100:.0f}{sign}':>{width}}"


def _strips(text: Text, per: int, shades: str) -> str:
    """Marks of prompt and output, with a border between them."""
    assert text.kept is not None
    n = text.sheet.n_prompt
    marks = "|".join(strip(part, per, shades) for part in (text.kept[:n], text.kept[n:]))
    missing = text.sheet.n_output - text.stats.n_generated
    return marks + " ended early" * (missing > 12 * per)
